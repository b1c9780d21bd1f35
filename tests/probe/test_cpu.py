"""Which processor a system says it has."""

from __future__ import annotations

from pathlib import Path

import pytest

from kstack.probe.cpu import CpuModel, host_cpu

XEON = """processor\t: {number}
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: {model}
model name\t: Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz
stepping\t: 6
microcode\t: 0xd0003a5
flags\t\t: fpu vme de
power management:

"""
ARM = "processor\t: 0\nBogoMIPS\t: 243.75\nCPU implementer\t: 0x41\n\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "cpuinfo"
    path.write_text(text)
    return path


def test_a_processor_is_read_by_its_number(tmp_path: Path) -> None:
    path = written(tmp_path, XEON.format(number=0, model=106) + XEON.format(number=1, model=151))
    first = CpuModel("GenuineIntel", 6, 106, 6, "0xd0003a5", "Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz")
    assert host_cpu(path=path) == host_cpu(0, path) == first
    second = host_cpu(1, path)
    assert second is not None and second.model == 151
    assert host_cpu(2, path) is None


def test_what_the_system_does_not_say_is_unknown(tmp_path: Path) -> None:
    path = written(tmp_path, "processor\t: 0\nvendor_id\t: AuthenticAMD\nstepping\t: unknown\n\n")
    assert host_cpu(path=path) == CpuModel("AuthenticAMD", -1, -1, -1, "unknown")


def test_no_x86_is_none(tmp_path: Path) -> None:
    assert host_cpu(path=written(tmp_path, ARM)) is None
    assert host_cpu(path=tmp_path / "absent") is None


@pytest.mark.parametrize("change", ["vendor", "family", "model", "stepping", "microcode"])
def test_processors_are_the_same_if_all_but_their_names_is(change: str) -> None:
    one = CpuModel("AuthenticAMD", 25, 17, 1, "0xa101148", "AMD EPYC 9R14")
    other = {"vendor": "GenuineIntel", "family": 26, "model": 18, "stepping": 2, "microcode": "0xa101154"}[change]
    fields = {**{name: getattr(one, name) for name in one.__struct_fields__}, change: other}
    assert one.is_same(CpuModel("AuthenticAMD", 25, 17, 1, "0xa101148", "AMD EPYC"))
    assert not one.is_same(CpuModel(**fields)) and not one.is_same(None)
