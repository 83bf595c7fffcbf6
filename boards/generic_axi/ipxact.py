# SPDX-License-Identifier: Apache-2.0
"""`component.xml` of the core after IEEE 1685-2014 (IP-XACT)."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as xml

from bitloop.hw.config import CoreConfig
from bitloop.hw.registers import REGISTERS, Access
from bitloop.hw.registers import VERSION as REGISTER_MAP_VERSION

NAMESPACE = "http://www.accellera.org/XMLSchema/IPXACT/1685-2014"
VENDOR, LIBRARY = "bitloop", "accelerators"
VERILOG_FILE = "hdl/bitloop_core.v"
MEMORY_MAP, ADDRESS_SPACE = "registers", "memory"
MASTER, SLAVE = "m_axi", "s_axil"
CLOCK, RESET = "clk", "rst"

_ACCESS = {
    Access.READ: "read-only",
    Access.WRITE: "write-only",
    Access.READ_WRITE: "read-write",
}


def component(config: CoreConfig, description: dict[str, Any]) -> str:
    """The XML of a core's component: bus interfaces of AXI4 master, AXI4-Lite slave, clock and
    reset, the register map, ports and files. `description` is that of `hw.verilog.describe`."""
    xml.register_namespace("ipxact", NAMESPACE)
    root = xml.Element(_tag("component"))
    name = f"bitloop_core_{config.name}"
    version = f"{REGISTER_MAP_VERSION}.{description['isa_version']}"
    for tag, text in (("vendor", VENDOR), ("library", LIBRARY), ("name", name)):
        _add(root, tag, text)
    _add(root, "version", version)
    _bus_interfaces(root, description)
    space = _add(_add(root, "addressSpaces"), "addressSpace")
    _add(space, "name", ADDRESS_SPACE)
    _add(space, "range", f"{1 << description['axi']['address_bits']}")
    _add(space, "width", str(description["axi"]["data_bits"]))
    _memory_map(root, description)
    _model(root, description)
    files = _add(_add(root, "fileSets"), "fileSet")
    _add(files, "name", "verilog")
    file = _add(files, "file")
    _add(file, "name", VERILOG_FILE)
    _add(file, "fileType", "verilogSource")
    _add(
        root,
        "description",
        f"Bitloop neural network accelerator core, config {config.name}, "
        f"fingerprint {config.fingerprint}",
    )
    parameters = _add(root, "parameters")
    _parameter(parameters, "FINGERPRINT", config.fingerprint, "string")
    xml.indent(root)
    return xml.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _tag(name: str) -> str:
    return f"{{{NAMESPACE}}}{name}"


def _add(parent: xml.Element, tag: str, text: str | None = None, **attributes: str) -> xml.Element:
    child = xml.SubElement(parent, _tag(tag), attributes)
    child.text = text
    return child


def _parameter(parent: xml.Element, name: str, value: str, kind: str) -> None:
    parameter = _add(parent, "parameter", parameterId=name, type=kind)
    _add(parameter, "name", name)
    _add(parameter, "value", value)


def _bus_interfaces(root: xml.Element, description: dict[str, Any]) -> None:
    interfaces = _add(root, "busInterfaces")
    names = [port["name"] for port in description["ports"]]

    def interface(name: str, library: str, bus: str, ports: dict[str, str]) -> xml.Element:
        """One with its port map, by logical name; the caller adds its mode and what follows."""
        element = _add(interfaces, "busInterface")
        _add(element, "name", name)
        reference = {"vendor": "xilinx.com", "library": library, "version": "1.0"}
        _add(element, "busType", None, name=bus, **reference)
        kind = _add(_add(element, "abstractionTypes"), "abstractionType")
        _add(kind, "abstractionRef", None, name=f"{bus}_rtl", **reference)
        maps = _add(kind, "portMaps")
        for logical, physical in ports.items():
            port_map = _add(maps, "portMap")
            _add(_add(port_map, "logicalPort"), "name", logical)
            _add(_add(port_map, "physicalPort"), "name", physical)
        return element

    def bus_ports(prefix: str) -> dict[str, str]:
        return {
            name.removeprefix(f"{prefix}_").upper(): name
            for name in names
            if name.startswith(f"{prefix}_")
        }

    master = interface(MASTER, "interface", "aximm", bus_ports(MASTER))
    _add(_add(master, "master"), "addressSpaceRef", None, addressSpaceRef=ADDRESS_SPACE)
    parameters = _add(master, "parameters")
    _parameter(parameters, "PROTOCOL", "AXI4", "string")
    _parameter(parameters, "DATA_WIDTH", str(description["axi"]["data_bits"]), "int")
    slave = interface(SLAVE, "interface", "aximm", bus_ports(SLAVE))
    _add(_add(slave, "slave"), "memoryMapRef", None, memoryMapRef=MEMORY_MAP)
    _parameter(_add(slave, "parameters"), "PROTOCOL", "AXI4LITE", "string")
    clock = interface(CLOCK, "signal", "clock", {"CLK": CLOCK})
    _add(clock, "slave")
    parameters = _add(clock, "parameters")
    _parameter(parameters, "ASSOCIATED_BUSIF", f"{MASTER}:{SLAVE}", "string")
    _parameter(parameters, "ASSOCIATED_RESET", RESET, "string")
    reset = interface(RESET, "signal", "reset", {"RST": RESET})
    _add(reset, "slave")
    _parameter(_add(reset, "parameters"), "POLARITY", "ACTIVE_HIGH", "string")


def _memory_map(root: xml.Element, description: dict[str, Any]) -> None:
    memory_map = _add(_add(root, "memoryMaps"), "memoryMap")
    _add(memory_map, "name", MEMORY_MAP)
    block = _add(memory_map, "addressBlock")
    _add(block, "name", MEMORY_MAP)
    _add(block, "baseAddress", "0")
    _add(block, "range", str(1 << description["axi_lite"]["address_bits"]))
    _add(block, "width", "32")
    _add(block, "usage", "register")
    for register in REGISTERS:
        element = _add(block, "register")
        _add(element, "name", register.name)
        _add(element, "description", register.doc)
        _add(element, "addressOffset", f"'h{register.address:03X}")
        _add(element, "size", "32")
        _add(element, "volatile", "true" if register.access is Access.READ else "false")
        _add(element, "access", _ACCESS[register.access])
        field = _add(element, "field")
        _add(field, "name", register.name)
        _add(field, "bitOffset", "0")
        _add(field, "bitWidth", "32")
    _add(memory_map, "addressUnitBits", "8")


def _model(root: xml.Element, description: dict[str, Any]) -> None:
    model = _add(root, "model")
    view = _add(_add(model, "views"), "view")
    _add(view, "name", "rtl")
    _add(view, "envIdentifier", "verilogSource:*:*")
    _add(view, "componentInstantiationRef", "verilog")
    instance = _add(_add(model, "instantiations"), "componentInstantiation")
    _add(instance, "name", "verilog")
    _add(instance, "language", "Verilog")
    _add(instance, "moduleName", description["module"])
    _add(_add(instance, "fileSetRef"), "localName", "verilog")
    ports = _add(model, "ports")
    for port in description["ports"]:
        element = _add(ports, "port")
        _add(element, "name", port["name"])
        wire = _add(element, "wire")
        _add(wire, "direction", {"input": "in", "output": "out"}[port["direction"]])
        if port["width"] > 1:
            vector = _add(_add(wire, "vectors"), "vector")
            _add(vector, "left", str(port["width"] - 1))
            _add(vector, "right", "0")
