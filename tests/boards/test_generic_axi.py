# SPDX-License-Identifier: Apache-2.0
"""The packaged core: IP-XACT by the rules of IEEE 1685-2014, and drivers and modules that name
every port and reach a core."""

import ast
import re
from xml.etree import ElementTree as xml

import numpy as np
import pytest

from bitloop.boards.generic_axi import write_package
from bitloop.boards.generic_axi.ipxact import NAMESPACE
from bitloop.boards.generic_axi.pynq import MappedBus, MappedRegisters, identify, open_pynq
from bitloop.compile import compile_graph
from bitloop.devices.driver import Driver
from bitloop.errors import DeviceError
from bitloop.graph.execute import execute
from bitloop.hw.config import preset
from bitloop.hw.registers import ADDRESS, REGISTERS
from bitloop.hw.verilog import TOP, describe
from bitloop.sim.random_graphs import random_graph, random_inputs
from bitloop.sim.random_layers import to_memory
from bitloop.sim.simulation import MEMORY_BASE, Simulation

CONFIG = preset("n4")

# Children of each element in the order that the schema's sequences give them: `?` at most one,
# `+` at least one, `*` any number, else exactly one.
SCHEMA = {
    "component": "vendor library name version busInterfaces? indirectInterfaces? channels? "
    "remapStates? addressSpaces? memoryMaps? model? componentGenerators? choices? fileSets? "
    "whiteboxElements? cpus? otherClockDrivers? resetTypes? description? parameters? assertions? "
    "vendorExtensions?",
    "busInterfaces": "busInterface+",
    "busInterface": "name displayName? description? isPresent? busType abstractionTypes? master? "
    "slave? connectionRequired? bitsInLau? bitSteering? endianness? parameters?",
    "abstractionTypes": "abstractionType+",
    "abstractionType": "viewRef* abstractionRef portMaps?",
    "portMaps": "portMap+",
    "portMap": "isPresent? logicalPort physicalPort",
    "logicalPort": "name range?",
    "physicalPort": "name partSelect?",
    "master": "addressSpaceRef?",
    "slave": "memoryMapRef?",
    "addressSpaces": "addressSpace+",
    "addressSpace": "name displayName? description? isPresent? range width segments? "
    "addressUnitBits? localMemoryMap? parameters?",
    "memoryMaps": "memoryMap+",
    "memoryMap": "name displayName? description? isPresent? addressBlock* bank* memoryRemap* "
    "addressUnitBits? shared?",
    "addressBlock": "name displayName? description? accessHandles? isPresent? baseAddress "
    "typeIdentifier? range width usage? volatile? access? parameters? register*",
    "register": "name displayName? description? accessHandles? isPresent? dim* addressOffset "
    "typeIdentifier? size volatile? access? field+ alternateRegisters? parameters?",
    "field": "name displayName? description? accessHandles? isPresent? bitOffset resets? "
    "typeIdentifier? bitWidth volatile? enumeratedValues? access?",
    "model": "views? instantiations? ports?",
    "views": "view+",
    "view": "name displayName? description? isPresent? envIdentifier* componentInstantiationRef? "
    "designInstantiationRef? designConfigurationInstantiationRef?",
    "instantiations": "componentInstantiation* designInstantiation*",
    "componentInstantiation": "name displayName? description? isVirtual? language? libraryName? "
    "packageName? moduleName? architectureName? configurationName? moduleParameters? "
    "defaultFileBuilder* fileSetRef* parameters?",
    "fileSetRef": "localName isPresent?",
    "ports": "port+",
    "port": "name displayName? description? isPresent? wire access?",
    "wire": "direction vectors? wireTypeDefs? domainTypeDefs? drivers? constraintSets?",
    "vectors": "vector+",
    "vector": "left right",
    "fileSets": "fileSet+",
    "fileSet": "name displayName? description? group* file* defaultFileBuilder* dependency*",
    "file": "name isPresent? fileType+ isStructural? isIncludeFile? logicalName? exportedName*",
    "parameters": "parameter+",
    "parameter": "name displayName? description? vectors? arrays? value",
}
ATTRIBUTES = {
    "busType": {"vendor", "library", "name", "version"},
    "abstractionRef": {"vendor", "library", "name", "version"},
    "addressSpaceRef": {"addressSpaceRef"},
    "memoryMapRef": {"memoryMapRef"},
    "parameter": {"parameterId", "type"},
}
TYPES = {"bit", "byte", "shortint", "int", "longint", "shortreal", "real", "string"}
EXPRESSION = re.compile(r"\d+|'h[0-9A-F]+")
WHOLE = {"range", "width", "addressOffset", "baseAddress", "size", "bitOffset", "bitWidth"}
WHOLE |= {"left", "right", "addressUnitBits"}
CHOICES = {
    "access": {"read-only", "write-only", "read-write"},
    "direction": {"in", "out", "inout"},
    "usage": {"memory", "register", "reserved"},
    "volatile": {"true", "false"},
    "fileType": {"verilogSource"},
}


def tag(element):
    assert element.tag.startswith(f"{{{NAMESPACE}}}"), element.tag
    return element.tag.split("}")[1]


def faults(element):
    """What breaks the schema's structure in an element and below, as strings."""
    name = tag(element)
    found = []
    if set(element.attrib) != ATTRIBUTES.get(name, set()):
        found.append(f"{name}: attributes {sorted(element.attrib)}")
    if name in SCHEMA:
        if (element.text or "").strip():
            found.append(f"{name}: text among elements")
        pattern = "".join(
            f"(?:{rule.rstrip('?*+')},)" + (rule[-1] if rule[-1] in "?*+" else "")
            for rule in SCHEMA[name].split()
        )
        children = "".join(f"{tag(child)}," for child in element)
        if not re.fullmatch(pattern, children):
            found.append(f"{name}: children {children}")
    elif len(element):
        found.append(f"{name}: unexpected children")
    elif name not in ATTRIBUTES and not (element.text or "").strip():
        found.append(f"{name}: empty")
    text = element.text or ""
    if name in WHOLE and not EXPRESSION.fullmatch(text):
        found.append(f"{name}: {text!r} is no whole number")
    if name in CHOICES and text not in CHOICES[name]:
        found.append(f"{name}: {text!r}")
    if name == "parameter" and element.get("type") not in TYPES:
        found.append(f"parameter: type {element.get('type')!r}")
    for child in element:
        found += faults(child)
    return found


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("package")
    paths = write_package(CONFIG, folder)
    assert all(path.is_file() for path in paths)
    return folder


@pytest.fixture(scope="module")
def component(package):
    return xml.parse(package / "component.xml").getroot()


def find(element, path):
    return element.findall("/".join(f"{{{NAMESPACE}}}{part}" for part in path.split("/")))


def texts(element, path):
    return [found.text for found in find(element, path)]


def test_the_component_keeps_the_schema(component):
    assert tag(component) == "component"
    assert faults(component) == []


@pytest.mark.parametrize("damage", ["order", "missing", "text", "attribute"])
def test_the_check_notices(package, damage):
    root = xml.parse(package / "component.xml").getroot()
    register = find(root, "memoryMaps/memoryMap/addressBlock/register")[0]
    if damage == "order":
        register[:] = [*register[1:], register[0]]
    elif damage == "missing":
        register.remove(find(register, "field")[0])
    elif damage == "text":
        find(register, "size")[0].text = "wide"
    else:
        del find(root, "busInterfaces/busInterface/busType")[0].attrib["library"]
    assert faults(root)


def test_names_and_references_of_the_component(component, package):
    def unique(path):
        names = texts(component, path)
        assert len(set(names)) == len(names) > 0
        return set(names)

    ports = unique("model/ports/port/name")
    assert ports == {port["name"] for port in describe(CONFIG)["ports"]}
    unique("busInterfaces/busInterface/name")
    physical = texts(
        component,
        "busInterfaces/busInterface/abstractionTypes/abstractionType/portMaps/portMap/"
        "physicalPort/name",
    )
    assert sorted(physical) == sorted(ports)  # each port in one interface
    spaces, maps = unique("addressSpaces/addressSpace/name"), unique("memoryMaps/memoryMap/name")
    reference = find(component, "busInterfaces/busInterface/master/addressSpaceRef")
    assert [element.get("addressSpaceRef") for element in reference] == sorted(spaces)
    reference = find(component, "busInterfaces/busInterface/slave/memoryMapRef")
    assert [element.get("memoryMapRef") for element in reference] == sorted(maps)
    assert texts(component, "model/views/view/componentInstantiationRef") == texts(
        component, "model/instantiations/componentInstantiation/name"
    )
    assert texts(component, "model/instantiations/componentInstantiation/moduleName") == [TOP]
    for name in texts(component, "fileSets/fileSet/file/name"):
        assert f"module {TOP}(" in (package / name).read_text()


def test_registers_and_widths_of_the_component(component):
    block = find(component, "memoryMaps/memoryMap/addressBlock")[0]
    offsets = [int(text[2:], 16) for text in texts(block, "register/addressOffset")]
    assert dict(zip(texts(block, "register/name"), offsets, strict=True)) == ADDRESS
    access = dict(zip(texts(block, "register/name"), texts(block, "register/access"), strict=True))
    for register in REGISTERS:
        assert access[register.name].replace("-only", "") == register.access.value
    for port in find(component, "model/ports/port"):
        name = texts(port, "name")[0]
        right = next(p for p in describe(CONFIG)["ports"] if p["name"] == name)
        left = texts(port, "wire/vectors/vector/left")
        assert (int(left[0]) + 1 if left else 1) == right["width"]
        assert texts(port, "wire/direction") == [right["direction"][: -len("put")]]


def test_the_litex_module_joins_every_port_once(package):
    tree = ast.parse((package / "bitloop_litex.py").read_text())
    call = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Instance"
    )
    assert ast.literal_eval(call.args[0]) == TOP
    joined = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    assert joined.keys() == {
        f"{port['direction'][0]}_{port['name']}" for port in describe(CONFIG)["ports"]
    }
    assert joined["o_m_axi_araddr"] == "memory.ar.addr"
    assert joined["i_m_axi_rlast"] == "memory.r.last"
    assert joined["i_s_axil_wstrb"] == "registers.w.strb"


class Buffer(bytearray):
    """Memory that core and host see, kept in step with the simulated core's when told to."""

    def __init__(self, simulation, address, size):
        super().__init__(size)
        self.simulation, self.device_address = simulation, address

    def flush(self):
        self.simulation.write_memory(self.device_address, bytes(self))

    def invalidate(self):
        self[:] = self.simulation.read_memory(self.device_address, len(self))


class Port:
    def __init__(self, simulation):
        self.simulation = simulation

    def read(self, offset):
        return self.simulation.read_register(offset)

    def write(self, offset, value):
        self.simulation.write_register(offset, value)


def test_the_mapped_bus_drives_a_core():
    """The simulated core behind a register port and a shared buffer, with the real driver."""
    graph = random_graph(3, CONFIG.lanes, "conv", 8)
    tensors = random_inputs(graph, 3, batch=2)
    binary = compile_graph(graph, CONFIG)
    inputs = to_memory(graph, tensors)
    outputs = to_memory(graph, execute(graph, tensors))
    base, size = MEMORY_BASE, 1 << 18
    simulation = Simulation(CONFIG, size)
    registers = Port(simulation)
    assert identify(registers) == CONFIG.fingerprint
    bus = MappedBus(registers, Buffer(simulation, base, size))
    driver = Driver(bus, CONFIG)
    driver.load(binary, bus.start)
    got, profile = driver.run(inputs)
    for name, array in outputs.items():
        np.testing.assert_array_equal(got[name], array)
    assert profile.cycles == sum(profile.causes.values()) > 0
    with pytest.raises(DeviceError, match="not in the buffer of 262144 bytes"):
        bus.read_memory(base + size - 4, 8)
    with pytest.raises(DeviceError, match="not in the buffer"):
        bus.write_memory(base - 1, b"1")


def test_registers_mapped_from_a_file(tmp_path):
    path = tmp_path / "registers"
    path.write_bytes(bytes(4096) + (0x12345678).to_bytes(4, "little") + bytes(4092))
    registers = MappedRegisters(path, 4096)
    assert registers.read(0) == 0x12345678
    registers.write(ADDRESS["program"], 0x1_0000_0002)
    assert path.read_bytes()[4096 + ADDRESS["program"]] == 2
    with pytest.raises(DeviceError, match="cannot map its registers"):
        MappedRegisters(path, 100)
    with pytest.raises(DeviceError, match="cannot map its registers"):
        MappedRegisters(tmp_path / "missing")


def test_without_pynq_the_driver_says_so():
    with pytest.raises(DeviceError, match="pynq package is not installed"):
        open_pynq("design.bit", "core", 4096)
