"""What probe images say of others than kstack: QEMU's TCG, by a table in docs/probe-images.md; and KVM, where it serves."""

from __future__ import annotations

from pathlib import Path

import pytest

from kstack.guest.images import PROBE_TITLES
from tests.support.command import ROOT
from tests.support.probes import INCONCLUSIVE, KEPT, Answers, answers, elsewhere_table, image_of
from tests.support.qemu import on_qemu, qemu_version, why_no_kvm

PAGE = ROOT / "docs" / "probe-images.md"
TABLE_OF = "7.2"
PASSED, CONTROL_FAILED = 0x10 << 1 | 1, 0x11 << 1 | 1  # exit codes of QEMU for what is written to the debug-exit port
ONE_THREAD, THREADS = "tcg,thread=single", "tcg,thread=multi"
ATTEMPTS = 8
ON_KVM = [pytest.param(probe, marks=[] if probe == "df-restart" else [pytest.mark.long]) for probe in PROBE_TITLES]


def asked(probe: str, folder: Path, accel: str, cpus: int = 2) -> Answers:
    """What a probe says on QEMU, of which the exit code has to agree."""
    image = folder / f"{probe}.elf"
    image.write_bytes(image_of(probe))
    done = on_qemu(image, cpus=cpus, ram=64, accel=accel)
    if done.returncode not in (PASSED, CONTROL_FAILED) and accel == "kvm":
        pytest.skip(f"KVM does not run it: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    found = answers(done.stdout)
    assert found.verdicts, done.stdout + done.stderr
    assert done.returncode == (PASSED if all(found.controls.values()) else CONTROL_FAILED), done.stdout
    return found


@pytest.mark.system("qemu-system-x86_64")
def test_the_page_has_what_tcg_says(tmp_path: Path) -> None:
    if qemu_version() != TABLE_OF:
        pytest.skip(f"the table is of QEMU {TABLE_OF}, and this is {qemu_version()}")
    found = {probe: asked(probe, tmp_path, ONE_THREAD) for probe in PROBE_TITLES}
    assert elsewhere_table(found) in PAGE.read_text()


@pytest.mark.system("qemu-system-x86_64")
def test_store_buffers_of_the_host_are_seen_through_tcg_where_its_cpus_run_at_once(tmp_path: Path) -> None:
    """A host that is busy may never let them: then nothing is said."""
    for _ in range(ATTEMPTS):
        found = asked("memory-order", tmp_path, THREADS)
        assert found.refuted <= {"memory-order=sc"}
        if found.refuted:
            return
    pytest.skip(f"the host's CPUs were not in step in {ATTEMPTS} runs")


@pytest.mark.system("qemu-system-x86_64")
def test_it_boots_by_its_pvh_note_too(tmp_path: Path) -> None:
    """QEMU takes the multiboot header where there is one."""
    image = tmp_path / "pvh.elf"
    image.write_bytes(image_of("df-restart").replace(b"\x02\xb0\xad\x1b\0\0\1\0", bytes(8)))
    assert answers(on_qemu(image, ram=64).stdout).refuted == asked("df-restart", tmp_path, ONE_THREAD, 1).refuted


@pytest.mark.slow
@pytest.mark.system("qemu-system-x86_64")
@pytest.mark.parametrize("probe", ON_KVM)
def test_kvm_answers_where_it_serves(probe: str, tmp_path: Path) -> None:
    """Whoever executes there: it is at least one value of each mode, or the controls say that nothing can be said."""
    if why := why_no_kvm():
        pytest.skip(why)
    found = asked(probe, tmp_path, "kvm")
    hows = [verdict.how for verdict in found.verdicts.values()]
    if not all(found.controls.values()):
        assert set(hows) == {INCONCLUSIVE}
    elif any(name.partition("=")[1] for name in found.verdicts):
        assert KEPT in hows
