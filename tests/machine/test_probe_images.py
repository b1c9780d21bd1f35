"""A probe image finds out of each machine what it is: it refutes what that can contradict, and never what it is."""

from __future__ import annotations

import re

import pytest

from kstack.guest.images import PROBE_PREFIX, PROBE_TITLES, sources
from kstack.hw.modes import VALUES, Modes
from kstack.hw.rules import ALL, Rule
from tests.support.command import ROOT, kstack
from tests.support.probes import (
    EVENTS,
    INCONCLUSIVE,
    KEPT,
    RULES,
    brought_about,
    events_table,
    here,
    image_of,
    modes_table,
    rules_table,
    session_of,
)

PAGE = ROOT / "docs" / "probe-images.md"
LINE_STATUS = 0x3FD
RUN_HERE = {
    mode: VALUES[mode] if mode != "memory-order" else ("sc",) for mode in EVENTS
}  # the others are only explored


def of(mode: str, values: frozenset[str]) -> set[str]:
    return {f"{mode}={value}" for value in values}


MACHINES = [(mode, value) for mode, values in RUN_HERE.items() for value in values]
SEEDED = [("speculation", value, seed) for value in VALUES["speculation"] for seed in (1, 2, 3)]


@pytest.mark.parametrize(("mode", "value", "seed"), [*((*machine, 0) for machine in MACHINES), *SEEDED])
def test_a_machine_is_found_to_be_what_it_is(mode: str, value: str, seed: int) -> None:
    found = here(session_of(mode, Modes(tlb="adversarial").with_option(f"{mode}={value}"), seed=seed))
    assert all(found.controls.values())
    assert set(found.verdicts) == of(mode, frozenset(VALUES[mode]))
    assert found.refuted == of(mode, brought_about(mode, value))
    assert {verdict.how for name, verdict in found.verdicts.items() if name not in found.refuted} == {KEPT}


@pytest.mark.parametrize("seed", [0, 3])
def test_writes_that_walk_because_of_evictions_do_not_refute_that_writes_need_not_walk(seed: int) -> None:
    found = here(session_of("dirty-rewalk", Modes(tlb="adversarial", dirty_rewalk="no"), seed=seed, quantum=2))
    walked = found.verdicts["dirty-rewalk=no"]
    assert walked.how == KEPT and 0 < walked.events < walked.trials
    assert found.refuted == {"dirty-rewalk=yes"}


def test_every_mode_of_the_processor_has_a_probe() -> None:
    of_guests = {"stack-fault-delivery", "kernel-pages"}
    assert set(EVENTS) == set(VALUES) - of_guests
    assert set(EVENTS) | set(RULES) == set(PROBE_TITLES)


@pytest.mark.parametrize("value", VALUES["speculation"])
def test_a_machine_that_does_nothing_unasked_contradicts_nothing(value: str) -> None:
    assert here(session_of("speculation", Modes(speculation=value))).refuted == set()


@pytest.mark.parametrize("probe", sorted({*EVENTS, *RULES} - {"memory-order"}))
def test_one_cpu_is_enough(probe: str) -> None:
    found = here(session_of(probe, Modes(tlb="adversarial"), cpus=1))
    assert "cpus 1\n" in found.text and "another CPU" not in found.text
    assert found.refuted == here(session_of(probe, Modes(tlb="adversarial"))).refuted
    assert all(verdict.trials for verdict in found.verdicts.values())


@pytest.mark.parametrize("tlb", ["retain", "adversarial"])
@pytest.mark.parametrize("probe", RULES)
def test_with_all_rules_none_is_refuted(probe: str, tlb: str) -> None:
    found = here(session_of(probe, Modes(tlb=tlb)))
    assert set(found.verdicts) == {rule.name for rule in RULES[probe]}
    assert {verdict.how for verdict in found.verdicts.values()} == {KEPT}


@pytest.mark.parametrize(("probe", "rule"), [(probe, rule) for probe, rules in RULES.items() for rule in rules])
def test_a_rule_that_is_off_is_refuted_and_no_other(probe: str, rule: Rule) -> None:
    assert here(session_of(probe, rules=ALL - {rule})).refuted == {rule.name}


NOTHING_SURVIVES = ALL - {Rule.CACHED_ENTRY_SURVIVES, Rule.STRUCTURE_CACHES}
"""As under a hypervisor that translates each access anew (kvm-pvm's interpreter of ring 0)."""


@pytest.mark.parametrize(
    ("probe", "rules"),
    [
        ("speculation", NOTHING_SURVIVES),
        ("speculation", ALL - {Rule.INVLPG_PAGE}),
        ("dirty-rewalk", NOTHING_SURVIVES),
        ("spurious-fault", NOTHING_SURVIVES),
        ("structure-caches", NOTHING_SURVIVES),
        ("global-invlpg", NOTHING_SURVIVES),
    ],
)
def test_where_a_control_fails_there_is_no_verdict(probe: str, rules: frozenset[Rule]) -> None:
    found = here(session_of(probe, Modes(tlb="adversarial"), rules))
    assert not all(found.controls.values())
    assert {verdict.how for verdict in found.verdicts.values()} == {INCONCLUSIVE}


def test_a_probe_learns_nothing_about_who_runs_it() -> None:
    """No port is read but the serial port's line status, and no instruction executed that tells machines apart."""
    for probe in PROBE_TITLES:
        session = session_of(probe)
        ports, read = session.machine.ports, session.machine.ports.read
        seen: set[int] = set()

        def spy(port: int, size: int, seen: set[int] = seen, read=read) -> int:  # type: ignore[no-untyped-def]
            seen.add(port)
            return read(port, size)  # type: ignore[no-any-return]

        ports.read = spy  # type: ignore[method-assign]
        here(session)
        assert seen == {LINE_STATUS}
        code = "".join(re.sub(r"#.*", "", path.read_text()) for path in sources(PROBE_PREFIX + probe))
        assert not re.search(r"^\s*(cpuid|rdtscp?|sidt|sgdt|smsw|vmcall|vmmcall|in (?!al, dx))\b", code, re.MULTILINE)


def without(image: bytes, what: bytes) -> bytes:
    assert image.count(what) == 1
    return image.replace(what, bytes(len(what)))


PVH_NOTE, MULTIBOOT_HEADER = b"Xen\0", b"\x02\xb0\xad\x1b\0\0\1\0"


@pytest.mark.parametrize("removed", [PVH_NOTE, MULTIBOOT_HEADER], ids=["multiboot", "PVH"])
def test_it_boots_by_either_header(removed: bytes) -> None:
    image = without(image_of("df-restart"), removed)
    assert here(session_of("df-restart", image=image)).text == here(session_of("df-restart")).text


@pytest.mark.parametrize("probe", PROBE_TITLES)
def test_it_runs_as_a_built_in_image(probe: str) -> None:
    done = kstack("run", f"probe-{probe}", "--cpus", "2")
    assert done.returncode == 0
    assert done.stdout.startswith(f"kstack probe {probe}, cpus 2\n")


@pytest.mark.parametrize("table", [events_table, modes_table, rules_table])
def test_the_page_has_the_tables(table) -> None:  # type: ignore[no-untyped-def]
    assert table() in PAGE.read_text()
