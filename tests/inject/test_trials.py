"""Campaigns: what each fault comes to, the same however it is run, and each trial replays."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kstack.base.errors import ConfigError, KstackError, PolicyError
from kstack.fault import At, Fault, Moment, Send, Step
from kstack.hw.modes import Modes
from kstack.inject import OUTCOMES, SYSTEMATIC, Trial, TrialOutcome, TrialPair, campaign, census, faults_at
from kstack.inject.campaign import TrialBatch, Wanted, batches, declared, read_campaign, run
from kstack.inject.examples import everything, record, shortest
from kstack.inject.trial import judged, schedule
from kstack.kernels.kstack.scenarios import find_scenario
from kstack.policies.entry_exit import EntryExit
from kstack.recording import read_recording, unpack, write_recording
from kstack.run.result import RunResult
from kstack.run.spec import replay_session
from kstack.sanitizer.findings import Finding, Kind
from kstack.schedule import RandomSchedule
from kstack.testing import trials
from kstack.testing.guests import Start
from kstack.testing.minimise import Minimised, merged
from kstack.testing.trials import simpler
from tests.support.command import ROOT, kstack

LAIGHT = TrialPair("switch-sp-ipi", "laight")


def tried(pair: TrialPair, what: str, limit: int = 40) -> Counter[tuple[str, str]]:
    found = census(pair)
    outcomes = [Trial(pair, fault, site, found.usual).run() for fault, site in faults_at(what, found, limit)]
    assert all(one.fired is not None for one in outcomes), "all sites are of this run"
    return Counter((one.outcome, one.by) for one in outcomes)


def test_a_census_counts_what_the_run_does() -> None:
    found = census(LAIGHT)
    session = LAIGHT.session()
    result = session.run()
    assert found.usual.time > 10_000
    assert result.ended == "exit"
    assert found.steps["SendIpi"] == session.runtime.counts.ipis
    assert found.steps["Invlpg"] == session.runtime.counts.invlpg
    assert sum(found.steps.values()) == session.runtime.counts.steps
    assert {site.symbol.partition("+")[0] for site in found.sites} >= {"syscall_entry", "schedule", "hypercall"}
    assert len({(site.time, site.cpu) for site in found.sites}) == len(found.sites)


def test_a_protocol_without_its_ipis_hangs_and_without_its_acknowledgements_goes_wrong() -> None:
    assert tried(LAIGHT, "drop-ipi")["hang", "nobody"] == 7
    assert tried(LAIGHT, "lose-ack") == {("hang", "nobody"): 7}
    assert tried(LAIGHT, "early-ack")["wrong-data", "oracle"] >= 1
    assert tried(LAIGHT, "narrow-flush")["wrong-data", "oracle"] >= 1


def test_what_comes_late_or_twice_changes_nothing() -> None:
    for what in ("delay-ipi", "duplicate-ipi", "delay-ack"):
        assert set(tried(LAIGHT, what)) == {("masked", "nobody")}, what


def test_an_nmi_anywhere_in_the_windows_is_survived() -> None:
    assert tried(LAIGHT, "nmi") == {("masked", "nobody"): 40}


def test_a_policy_that_fails_is_told_of_by_the_policy_s_own_error() -> None:
    assert set(tried(LAIGHT, "raise", 10)) == {("detected", "policy")}
    assert set(tried(LAIGHT, "endless-step", 5)) == {("hang", "nobody")}


def test_what_happens_without_the_fault_too_is_not_the_fault_s() -> None:
    """entry-exit goes wrong in laight by itself."""
    pair = TrialPair("entry-exit", "laight")
    found = census(pair)
    assert (found.usual.outcome, found.usual.kind) == ("wrong-data", "wrong-data")
    fault, site = faults_at("nmi", found, 1)[0]
    outcome = Trial(pair, fault, site, found.usual).run()
    assert outcome.outcome == "masked"
    assert outcome.text.startswith("as without the fault")


def test_a_fault_that_does_not_happen_says_so() -> None:
    found = census(LAIGHT)
    outcome = Trial(LAIGHT, Fault("drop-ipi", Send(nth=1000)), "none", found.usual).run()
    assert (outcome.fired, outcome.outcome, outcome.column) == (None, "masked", "not fired")
    assert outcome.text.endswith("such IPIs, and it waits for number 1000")


@pytest.mark.parametrize("what", ["early-ack", "lose-ack", "drop-ipi", "fail-alloc", "nmi"])
def test_each_trial_replays_from_its_recording(what: str, tmp_path: Path) -> None:
    found = census(LAIGHT)
    for fault, site in faults_at(what, found, 3):
        outcome, recording = Trial(LAIGHT, fault, site, found.usual).recorded()
        write_recording(tmp_path / "r.json", recording)
        again = replay_session(read_recording(tmp_path / "r.json")).run()
        assert again.state_hash == recording.state_hash
        assert judged("laight", again)[0] == outcome.outcome


def test_outcomes_do_not_depend_on_the_number_of_workers_and_a_journal_is_gone_on_from(tmp_path: Path) -> None:
    wanted = Wanted(["switch-sp-ipi", "entry-keep"], ["laight", "wilcox"], ["drop-ipi", "fail-alloc"], [], 4)
    alone = list(run(batches(wanted)))
    journal = tmp_path / "journal"
    part = run(batches(wanted), journal=journal)
    next(part)
    part.close()
    text = journal.read_text()
    journal.write_text(text + text[: len(text) // 2])
    together = list(run(batches(wanted), jobs=2, journal=journal))
    assert together == alone
    assert len(journal.read_text().splitlines()) == 8
    assert list(run(batches(wanted), journal=journal)) == alone


def test_a_pair_is_cut_into_batches_that_make_the_same_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Wanted(["switch-sp-ipi"], ["laight"], ["drop-invlpg", "nmi"], [], 20)
    whole = [one for _, each in run(batches(wanted)) for one in each]
    monkeypatch.setattr(campaign, "CHUNK", 3)
    work = batches(wanted)
    assert len(work) == 14
    cut = [one for _, each in run(work) for one in each]
    assert sorted(map(str, cut)) == sorted(map(str, whole))
    assert len(whole) == 40


def test_a_journal_is_of_its_policy_its_modes_and_its_limit(tmp_path: Path) -> None:
    """What was tried with others is tried again."""
    policy = tmp_path / "mine.py"
    shutil.copy(ROOT / "policies" / "entry_exit.py", policy)
    wanted = Wanted([str(policy)], ["laight"], ["drop-ipi"], [], 2)
    journal = tmp_path / "journal"

    def tried(more: Wanted) -> int:
        before = len(journal.read_text().splitlines()) if journal.exists() else 0
        list(run(batches(more), journal=journal))
        return len(journal.read_text().splitlines()) - before

    assert tried(wanted) == 1
    assert tried(wanted) == 0
    assert tried(Wanted(wanted.policies, wanted.scenarios, ["drop-ipi"], [], 3)) == 1
    assert tried(Wanted(wanted.policies, wanted.scenarios, ["drop-ipi"], [], 2, {"tlb": "capacity:4"})) == 1
    policy.write_text(policy.read_text() + "# another")
    assert tried(wanted) == 1


def test_a_pair_without_a_baseline_is_told_of_and_the_others_are_tried() -> None:
    refused: dict[TrialPair, str] = {}
    wanted = Wanted(["switch-sp-ipi", "entry-exit"], ["hotplug"], ["drop-ipi"], [], 2)
    found = list(run(batches(wanted), refused=refused.__setitem__))
    assert {batch.pair.policy for batch, _ in found} == {"switch-sp-ipi"}
    assert list(refused.values()) == [
        "hotplug under entry-exit ends with asleep without any fault: every CPU sleeps, and no timer is set: CPUs 0-1 halted"
    ]


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (Wanted([], ["laight"], ["nmi"]), "policies: give one"),
        (Wanted(["fixed-16k"], [], ["nmi"]), "scenarios: give one"),
        (Wanted(["fixed-16k"], ["laight"]), "faults: give one"),
    ],
)
def test_nothing_to_try_is_an_error(wanted: Wanted, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        batches(wanted)


def test_what_is_named_twice_is_tried_once() -> None:
    assert batches(Wanted(["fixed-16k"] * 2, ["laight"] * 2, ["nmi"] * 2)) == batches(
        Wanted(["fixed-16k"], ["laight"], ["nmi"])
    )


# --- what a trial comes to


def result(
    ended: str = "exit", exit_value: int = 0x10, kinds: tuple[Kind, ...] = (), serial: str = "well\n"
) -> RunResult:
    findings = tuple(Finding(kind, 0, "here", 0, 5, kind.value) for kind in kinds)
    usual = LAIGHT.session().run()
    return dataclasses.replace(usual, ended=ended, exit_value=exit_value, findings=findings, serial=serial)


@pytest.mark.parametrize(
    ("run_result", "comes_to"),
    [
        ({}, ("masked", "nobody")),
        ({"ended": "shutdown"}, ("shutdown", "oracle")),
        ({"ended": "shutdown", "kinds": (Kind.WRONG_DATA,)}, ("shutdown", "oracle")),
        ({"ended": "bound"}, ("hang", "nobody")),
        ({"ended": "asleep"}, ("hang", "nobody")),
        ({"ended": "deadlock", "kinds": (Kind.DEADLOCK,)}, ("hang", "nobody")),
        ({"kinds": (Kind.LIVELOCK,)}, ("hang", "nobody")),
        ({"ended": "bound", "kinds": (Kind.DATA_LEAK,)}, ("wrong-data", "oracle")),
        ({"exit_value": 0x11, "kinds": (Kind.WRONG_DATA,)}, ("wrong-data", "oracle")),
        ({"exit_value": 0x11}, ("detected", "guest")),
        ({"exit_value": 0x12}, ("detected", "guest")),
        ({"serial": "PANIC on one CPU\nanother one ends it\n"}, ("detected", "guest")),
        ({"kinds": (Kind.STALE_TRANSLATION,)}, ("detected", "oracle")),
    ],
)
def test_the_worst_of_what_a_run_comes_to_counts(run_result: dict[str, Any], comes_to: tuple[str, str]) -> None:
    assert judged("laight", result(**run_result))[:2] == comes_to


def test_a_panic_is_told_by_its_own_line() -> None:
    serial = "kernel\nPANIC no idea\ncpu 0 thread 3\nss     0x10\n"
    assert judged("laight", result(exit_value=0x12, serial=serial))[2] == "PANIC no idea"


@pytest.mark.parametrize(
    ("place", "bit", "says"),
    [("shut_down", 5, "the guest exits with 0x30"), ("print", 0, "the guest prints")],
)
def test_a_guest_that_says_something_else_is_not_as_without_the_fault(place: str, bit: int, says: str) -> None:
    found = census(LAIGHT)
    fault = Fault("flip-register", At(place), register="rdi", bit=bit)
    outcome = Trial(LAIGHT, fault, "", found.usual).run()
    assert (outcome.outcome, outcome.by) == ("wrong-data", "nobody")
    assert outcome.text.startswith(says)


def test_a_run_that_is_better_than_without_the_fault_is_masked() -> None:
    """entry-exit goes wrong in laight, unless a page that it takes is not there."""
    pair = TrialPair("entry-exit", "laight")
    found = census(pair)
    outcome = Trial(pair, Fault("fail-alloc", Step("TakePage", 20)), "", found.usual).run()
    assert (outcome.outcome, outcome.text) == ("masked", "better than without the fault")


@pytest.mark.parametrize(
    ("faults", "code"), [("nmi", 0), ("raise", 0), ("lose-ack", 1), ("early-ack", 1), ("drop-ipi", 1)]
)
def test_the_exit_code_says_whether_anything_unexpected_came_of_it(faults: str, code: int) -> None:
    done = kstack("inject", "laight", "--policy", "switch-sp-ipi", "--faults", faults, "--limit", "7")
    assert done.returncode == code, done.stdout


def test_a_folder_that_cannot_be_is_told_of_before_anything_is_tried(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    words = ("inject", "laight", "--policy", "switch-sp-ipi", "--faults", "nmi", "--limit", "5000")
    for place in (tmp_path / "file", Path("/proc/none")):
        done = kstack(*words, "--recordings", place)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"--recordings {place}: " in done.stderr


def test_a_schedule_under_which_it_goes_wrong_without_the_fault_too_is_no_example(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """entry-exit goes wrong in laight under its script, fault or none: for a pair that is sound that would show a race."""
    pair = TrialPair("entry-exit", "laight")
    trial = Trial(pair, Fault("duplicate-ipi", Send(1)), "", census(pair).usual)
    setup = trial.setup
    start = Start(setup.image, setup.cpus, setup.ram, setup.modes, EntryExit, setup.options, setup.faults)
    runs = (start.run(RandomSchedule(seed, 8)) for seed in range(40))
    run_recording = next(start.recording_of(run) for run in runs if run.failure is not None)
    short = start.run(schedule(find_scenario("laight")))
    assert short.outcome is not None
    found = judged("laight", short.outcome)
    outcome = TrialOutcome(trial.fault, "", 1, found[0], found[1], found[2], found[3], short.end)
    monkeypatch.setattr(trials, "minimise", lambda run: Minimised(short, None, 1, True))
    for usual, is_example in ((found[:2], True), (("masked", "nobody"), False)):
        one = trial._replace(usual=trial.usual._replace(outcome=usual[0], by=usual[1]))
        assert (simpler(one, outcome, run_recording) != run_recording) == is_example


def test_an_instruction_s_fault_is_recorded_under_its_own_schedule(tmp_path: Path) -> None:
    """Another schedule would have another instruction there at that time."""
    batch = TrialBatch(TrialPair("switch-sp-ipi", "wilcox"), ("spurious-fault",), (), 3)
    chosen = everything([(batch, batch.run())])
    for simple, plain in zip(record(tmp_path / "a", chosen, simpler), record(tmp_path / "b", chosen), strict=True):
        assert read_recording(simple.path) == read_recording(plain.path)


def test_a_damaged_journal_is_one_clear_error(tmp_path: Path) -> None:
    wanted = Wanted(["switch-sp-ipi"], ["laight"], ["drop-ipi"], [], 2)
    journal = tmp_path / "journal"
    list(run(batches(wanted), journal=journal))
    journal.write_text(journal.read_text().replace("hang", "bang"))
    with pytest.raises(ConfigError, match="line 1 is damaged"):
        list(run(batches(wanted), journal=journal))


def test_what_only_the_guest_notices_the_guest_has_detected() -> None:
    """A thread that cannot be made is no wrong data."""
    pair = TrialPair("fault-df", "wilcox", Modes(df_restart="exact"))
    found = census(pair)
    outcome = Trial(pair, Fault("fail-alloc", Step("AllocPage", 2)), "", found.usual).run()
    assert (outcome.outcome, outcome.by, outcome.kind) == ("detected", "guest", None)
    assert "no memory for a thread" in outcome.text


def test_a_failing_policy_s_trial_is_recorded_too_and_fails_again(tmp_path: Path) -> None:
    found = census(LAIGHT)
    fault, site = faults_at("raise", found, 3)[1]
    outcome, recording = Trial(LAIGHT, fault, site, found.usual).recorded()
    assert outcome.by == "policy"
    write_recording(tmp_path / "r.json", recording)
    with pytest.raises(PolicyError) as caught:
        replay_session(read_recording(tmp_path / "r.json")).run()
    assert str(caught.value) == outcome.text
    done = kstack("replay", tmp_path / "r.json", "--json")
    said = json.loads(done.stdout)
    assert (done.returncode, said["exit"], said["error"]) == (1, "policy-failed", outcome.text)
    assert said["instructions"] == outcome.time
    shown = kstack("trace", "query", tmp_path / "r.json", "--sql", "select max(count) m from instructions", "--json")
    assert outcome.time - 50 < json.loads(shown.stdout)["rows"][0][0] <= outcome.time


def test_examples_are_the_shortest_of_each_kind_or_all(tmp_path: Path) -> None:
    batch = TrialBatch(LAIGHT, ("drop-ipi", "early-ack", "raise"), (), 8)
    found = [(batch, batch.run())]
    chosen = shortest(found)
    assert {(one.fault.what, one.outcome) for _, one in chosen} == {
        ("drop-ipi", "hang"),
        ("early-ack", "wrong-data"),
        ("raise", "detected"),
    }
    for _, one in chosen:
        alike = [each.time for each in found[0][1] if (each.fault.what, each.outcome) == (one.fault.what, one.outcome)]
        assert one.time == min(alike)
    assert everything(found) == [(LAIGHT, one) for one in found[0][1]]
    simple = record(tmp_path / "simple", chosen, simpler)
    plain = record(tmp_path / "plain", chosen)
    assert [one.outcome for one in simple] == [one for _, one in chosen]
    slices = []
    for example, other in zip(simple, plain, strict=True):
        recording = read_recording(example.path)
        slices.append([len(merged(list(unpack(read_recording(one.path).choices)))) for one in (example, other)])
        if example.outcome.by == "policy":
            continue
        again = replay_session(recording).run()
        assert again.state_hash == recording.state_hash
        assert judged("laight", again)[0] == example.outcome.outcome
    assert all(less <= more for less, more in slices)
    assert any(less < more for less, more in slices)


@pytest.mark.parametrize("what", ["nmi", "timer", "delay-ipi", "drop-invlpg", "fail-alloc"])
def test_a_fault_is_declared_as_a_campaign_s_file_takes_it(what: str, tmp_path: Path) -> None:
    fault, _ = faults_at(what, census(LAIGHT), 1)[0]
    head = 'policies = ["switch-sp-ipi"]\nscenarios = ["laight"]\n'
    (tmp_path / "c.toml").write_text(head + declared(fault))
    assert read_campaign(tmp_path / "c.toml").single == [fault]


CAMPAIGN = """
policies = ["switch-sp-ipi"]
scenarios = ["laight"]
limit = 3

[[faults]]
what = "drop-ipi"

[[faults]]
what = "flip-register"
when = { on = "at", place = "laight_watch+0x2d", nth = 1 }
register = "r12"
bit = 3
"""


def test_a_campaign_is_declared_in_toml(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(CAMPAIGN)
    wanted = read_campaign(tmp_path / "c.toml")
    assert wanted.systematic == ["drop-ipi"]
    assert wanted.single == [Fault("flip-register", At("laight_watch+0x2d"), register="r12", bit=3)]
    outcomes = [one for _, each in run(batches(wanted)) for one in each]
    assert [one.fault.what for one in outcomes] == ["drop-ipi"] * 3 + ["flip-register"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"drop-ipi"', '"drop-eepi"', "fault 1"),
        ("limit = 3", "limit = 0", "limit 0"),
        ("limit = 3", "limits = 3", "limits"),
        ('"laight"', '"laigt"', "laigt"),
        ("bit = 3", "bit = 99", "bit 99"),
        ('on = "at"', 'on = "never"', "fault 2"),
        ("policies =", "policies", "c.toml"),
    ],
)
def test_a_wrong_campaign_is_one_clear_error(old: str, new: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(CAMPAIGN.replace(old, new, 1))
    with pytest.raises(KstackError, match=says):
        list(run(batches(read_campaign(tmp_path / "c.toml"))))


def test_the_command_prints_what_others_rely_on(tmp_path: Path) -> None:
    words = ("inject", "laight", "--policy", "switch-sp-ipi", "--faults", "early-ack,nmi", "--limit", "7", "--json")
    done = kstack(*words, "--recordings", tmp_path / "kept")
    found = json.loads(done.stdout)
    assert done.returncode == 1, "wrong data is unexpected"
    assert found["summary"]["trials"] == len(found["trials"]) == 14
    assert sum(found["summary"][name] for name in OUTCOMES) == 14
    wrong = next(trial for trial in found["trials"] if trial["outcome"] == "wrong-data")
    assert (wrong["fired"], wrong["policy"], wrong["scenario"]) == (True, "switch-sp-ipi", "laight")
    replayed = kstack("replay", wrong["recording"])
    assert "identical" in replayed.stderr
    assert kstack("inject", "laight", "--policy", "switch-sp-ipi", "--faults", "nothing").returncode == 2
    assert kstack("inject", "laight").returncode == 2


def test_every_systematic_fault_has_sites_somewhere() -> None:
    found = census(TrialPair("switch-sp-ipi", "laight"))
    assert [what for what in SYSTEMATIC if not faults_at(what, found, 1)] == []


def test_a_pair_that_does_not_end_by_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    session = TrialPair.session
    monkeypatch.setattr(TrialPair, "session", lambda pair, limit=None: session(pair, 100))
    with pytest.raises(ConfigError, match="ends with bound without any fault"):
        census.__wrapped__(LAIGHT)


# --- places, addresses, and what does not happen

GUEST = """
id = "patched"
title = "a loop that is patched"
question = "who notices?"
source = "here"
cpus = 1
sources = ["patched.s"]
success = "sum"
mutant = { policy = "fixed-16k" }
"""
LOOP = """
.text
scenario_main:
    push rbx
    xor ebx, ebx
    mov ecx, 100
again:
    nop
patched:
    mov eax, 1
    add ebx, eax
    dec ecx
    jnz again
    lea rdi, [rip+right]
    cmp ebx, 100
    je .Lsay
    lea rdi, [rip+wrong]
.Lsay:
    call print
    xor eax, eax
    pop rbx
    ret
.section .rodata
right: .asciz "sum 100\\n"
wrong: .asciz "sum of something else\\n"
.p2align 3
scenario_pool: .quad 48
scenario_tick: .long 0
"""


@pytest.fixture
def patched(tmp_path: Path) -> TrialPair:
    (tmp_path / "patched.toml").write_text(GUEST)
    (tmp_path / "patched.s").write_text(LOOP)
    return TrialPair("fixed-16k", str(tmp_path / "patched.toml"))


def file_of(pair: TrialPair, *faults: Fault) -> Path:
    """A campaign of these faults."""
    path = Path(pair.scenario).parent / "c.toml"
    head = f'policies = ["{pair.policy}"]\nscenarios = ["{pair.scenario}"]\n'
    path.write_text(head + "\n".join(declared(fault) for fault in faults))
    return path


def test_a_bit_of_ram_is_the_one_that_is_named_by_whatever_address(patched: TrialPair, tmp_path: Path) -> None:
    """Bit 1 of the immediate operand, by each of the eight bytes before it from which a word has it."""
    session = patched.session()
    linear = session.symbols.address("patched")
    assert linear is not None
    byte = (session.machine.cpus[0].mmu.resolve(linear) or 0) + 1
    forms = [Fault("flip-ram", At("again", 50), address=byte - more, bit=8 * more + 1) for more in range(8)]
    assert sum(fault.address % 8 != 0 for fault in forms if fault.address is not None) == 7
    outcomes = [one for _, each in run(batches(read_campaign(file_of(patched, *forms)))) for one in each]
    assert [(one.outcome, one.fired is not None) for one in outcomes] == [("wrong-data", True)] * 8
    assert len({(one.text, one.time, one.fired) for one in outcomes}) == 1
    ends = set()
    for number, fault in enumerate(forms):
        _, recording = Trial(patched, fault, "", census(patched).usual).recorded()
        write_recording(tmp_path / f"{number}.json", recording)
        again = replay_session(read_recording(tmp_path / f"{number}.json")).run()
        assert again.state_hash == recording.state_hash
        ends.add(again.state_hash)
    assert len(ends) == 1


@pytest.mark.parametrize(
    ("place", "says"),
    [
        (
            "patched+1",
            "'patched+1' is inside an instruction (mov eax, 1): the nearest begin at patched and patched+0x5",
        ),
        (
            "again+7",
            "'again+7' is inside an instruction (add ebx, eax): the nearest begin at patched+0x5 and patched+0x7",
        ),
        ("patchd", "the image has no symbol 'patchd'"),
        ("0x123456789abcdef0", "no canonical address"),
    ],
)
def test_a_place_at_which_no_instruction_begins_is_an_error_before_anything_is_tried(
    place: str, says: str, patched: TrialPair
) -> None:
    path = file_of(patched, Fault("nmi", At("patched")), Fault("nmi", At(place)))
    done = kstack("inject", "--campaign", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_place_that_only_the_run_shows_to_be_inside_an_instruction_is_an_error() -> None:
    """The switch goes on through a pointer on a stack, so that its second half is not followed."""
    found = census(LAIGHT)
    with pytest.raises(ConfigError, match=r"'context_switch\+0x32' is inside an instruction \(pop r13\): the nearest"):
        Trial(LAIGHT, Fault("nmi", At("context_switch+0x32", 1000)), "", found.usual).run()


def test_what_did_not_happen_is_counted_apart_from_what_was_masked(patched: TrialPair) -> None:
    faults = [
        Fault("nmi", At("again", 100)),
        Fault("nmi", At("again", 101)),
        Fault("drop-ipi", Send(1)),
        Fault("nmi", Moment(1 << 40)),
        Fault("flip-ram", At("again"), address=1 << 40, bit=1),
    ]
    done = kstack("inject", "--campaign", file_of(patched, *faults), "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0
    assert [trial["fired"] for trial in found["trials"]] == [True, False, False, False, False]
    assert found["summary"] == {
        "trials": 5, "masked": 1, "detected": 0, "wrong-data": 0, "hang": 0, "shutdown": 0, "not_fired": 4,
    }  # fmt: skip
    assert [trial["where"] for trial in found["trials"]] == [
        "before execution 100 of again",
        "before execution 101 of again",
        "IPI 1",
        f"at {1 << 40}",
        "before execution 1 of again",
    ]
    assert [trial["text"].partition(",")[0] for trial in found["trials"][1:]] == [
        "there were 100 executions of its place",
        "there were 0 such IPIs",
        f"the run was at {patched.session().machine.time + census(patched).usual.time}",
        "there was nothing that it could do anything to",
    ]
    assert "4 of 5 faults did not happen, as nmi before execution 101 of again: there were 100" in done.stderr
    page = Path(patched.scenario).parent / "m.html"
    table = kstack("inject", "--campaign", file_of(patched, *faults), "--report", page).stdout
    assert [line.split() for line in table.splitlines()[3:6]] == [
        ["fixed-16k", "nmi", "3", "1", "2", "1"],
        ["fixed-16k", "drop-ipi", "1", "1"],
        ["fixed-16k", "flip-ram", "1", "1"],
    ]
    assert "there were 100 executions of its place, and it waits for number 101" in page.read_text()


def test_a_trial_whose_fault_did_not_happen_is_no_example(patched: TrialPair, tmp_path: Path) -> None:
    batch = TrialBatch(
        patched, (), (Fault("nmi", At("again", 101)), Fault("flip-register", At("again", 9), register="rbx", bit=3)), 9
    )
    found = [(batch, batch.run())]
    assert [one.column for one in found[0][1]] == ["not fired", "wrong-data"]
    assert [one.fault.what for _, one in shortest(found)] == ["flip-register"]
