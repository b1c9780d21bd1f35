"""Litmus tests on pages of their own, as values: written into a folder as TOML and assembly, and their final values by name.

Each location is the first word of a page of the guest image. The tests' guest (guest/scenarios/lib_pages.s) notes a page
fault of an operation, and goes on with the next one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from kstack.base.errors import ConfigError
from kstack.kernels.kstack.language import FLAGS, LARGEST, NAMES, Entry, Operation, parse
from kstack.load import Symbols
from kstack.x86.entries import FRAME_MASK, NX, RW, A, D, G, P

RESULTS: Final = ("r8", "r9", "r10", "r11", "r13", "rbx")
"""Registers for the results of a CPU's operations, in order."""
FAULTS: Final = "r12"
"""Bit n: operation n of the CPU has faulted."""
MOST_CPUS: Final = 4
MOST_OPERATIONS: Final = 64
KERNEL_BASE: Final = 0xFFFFFFFF80000000
"""Where the guest maps physical 0 (guest/kernel/defs.s)."""
PTE_BITS: Final = {"P": P, "W": RW, "A": A, "D": D}
OK, FAULT = "ok", "fault"
Value = int | str
FinalValues = tuple[tuple[str, Value], ...]
"""Final values by name, in the order of `Litmus.names`."""


class OperationResult(NamedTuple):
    """What an operation tells: its name, whose it is, its place in the program, its register ("" if it has no result)."""

    name: str
    cpu: int
    place: int
    operation: Operation
    register: str


@dataclass(frozen=True)
class Litmus:
    """A test: what each CPU does, and what there is at the beginning.

    Attributes:
        programs: one a CPU.
        values: first words of the frames of the locations' pages; 0 if not given.
        entries: their page-table entries; each its own frame with all flags set if not given.
        global_pages: entries have G set, so that loading CR3 leaves them alone.

    Raises:
        ConfigError: there are too many programs, operations or results.
    """

    programs: tuple[tuple[Operation, ...], ...]
    values: Mapping[str, int] = field(default_factory=dict)
    entries: Mapping[str, Entry] = field(default_factory=dict)
    global_pages: bool = False

    def __post_init__(self) -> None:
        if not 1 <= len(self.programs) <= MOST_CPUS:
            raise ConfigError(f"{len(self.programs)} programs: give 1 to {MOST_CPUS}, one a CPU")
        for cpu, program in enumerate(self.programs):
            results = sum(one.gives for one in program)
            if len(program) > MOST_OPERATIONS or results > len(RESULTS):
                raise ConfigError(
                    f"program of CPU {cpu}: {len(program)} operations with {results} results; there is room for "
                    f"{MOST_OPERATIONS} with {len(RESULTS)}"
                )

    @classmethod
    def of(
        cls, programs: Sequence[str], init: Mapping[str, int | str] | None = None, global_pages: bool = False
    ) -> Litmus:
        """A test from texts.

        Args:
            programs: one a CPU (kstack.kernels.kstack.language).
            init: `x` to a number, `pte x` to an entry's text.
            global_pages: entries have G set.

        Raises:
            ConfigError: a text is wrong; the message names which, and its place.
        """
        values: dict[str, int] = {}
        entries: dict[str, Entry] = {}
        for key, value in (init or {}).items():
            name = key.removeprefix("pte ").strip()
            if len(name) != 1 or name not in NAMES:
                raise ConfigError(f"init: {key!r} does not exist; write x or 'pte x', with one of {', '.join(NAMES)}")
            if key != name:
                try:
                    entries[name] = Entry.of(str(value))
                except ConfigError as error:
                    raise ConfigError(f"init: {key}: {error}") from error
            elif isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST:
                raise ConfigError(f"init: {key} = {value!r}: give a number from 0 to {LARGEST}")
            else:
                values[name] = value
        parsed = tuple(parse(text, f"program of CPU {cpu}") for cpu, text in enumerate(programs))
        return cls(parsed, values, entries, global_pages)

    # --- what it is about

    @property
    def locations(self) -> tuple[str, ...]:
        """That it names, in order."""
        used = [*self.values, *self.entries, *(entry.frame for entry in self.entries.values())]
        for one in (one for program in self.programs for one in program):
            used += [one.name] if one.what not in ("fence", "lock", "cr3", "wait") else []
            used += [entry.frame for entry in (one.entry, one.expected) if entry is not None]
        return tuple(name for name in NAMES if name in used)

    @property
    def pages(self) -> bool:
        """It is about entries or translations, and not memory order alone."""
        return bool(self.entries) or any(one.pages for program in self.programs for one in program)

    def entry(self, name: str) -> Entry:
        """Of a location, at the beginning."""
        return self.entries.get(name, Entry(name, FLAGS))

    @property
    def results(self) -> tuple[OperationResult, ...]:
        """Of all operations that tell something, by CPU, in order; a store tells whether it faulted, where it can."""
        found: list[OperationResult] = []
        for cpu, program in enumerate(self.programs):
            given, seen = 0, dict[str, int]()
            for place, one in enumerate(program):
                if not (one.gives or (one.accesses and self.pages)):
                    continue
                name = f"{cpu}:{one}"
                seen[name] = seen.get(name, 0) + 1
                register = RESULTS[given] if one.gives else ""
                given += one.gives
                found.append(
                    OperationResult(name + (f" #{seen[name]}" if seen[name] > 1 else ""), cpu, place, one, register)
                )
        return tuple(found)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all final values: `0:r x` of operations (the second alike is `0:r x #2`), `x` of frames, `pte x` of entries."""
        entries = [f"pte {name}" for name in self.locations] if self.pages else []
        return (*(result.name for result in self.results), *self.locations, *entries)

    # --- written

    def write(self, folder: Path) -> Path:
        """Write it into a folder as a scenario: the path of its TOML."""
        cpus = len(self.programs)
        programs = "".join(self._program(cpu) for cpu in range(cpus))
        names = ", ".join(f"program_{cpu}" for cpu in range(cpus))
        pages = "".join(f"page_{name}:\n    .quad {self.values.get(name, 0)}\n    .zero 4088\n" for name in NAMES)
        (folder / "pages.s").write_text(
            f".text\npages_begin:\n{programs}pages_end:\npages_set:\n{self._set()}    ret\n"
            '.section .rodata\nscenario_name:\n    .asciz "pages"\n.p2align 3\nscenario_pool:\n    .quad 48\n'
            f"litmus_stacks:\n    .quad 0\nlitmus_programs:\n    .quad {names}, 0\n.data\n.p2align 12\n{pages}"
        )
        toml = folder / "pages.toml"
        toml.write_text(
            'id = "pages"\ntitle = "pages"\nquestion = "which outcomes are there?"\nsource = "a litmus test"\n'
            f'cpus = {cpus}\nsources = ["lib_pages.s", "lib_litmus.s", "pages.s"]\nsuccess = ""\n'
            f'events = ["ready", "done", "wrong"]\nlitmus = true\n{self._managed()}'
            f'[mutant]\npolicy = "fixed-16k"\n[outcomes]\n{self._watched()}'
        )
        return toml

    def _managed(self) -> str:
        symbols = ", ".join(f'"page_{name}"' for name in self.locations)
        return f"managed = [{symbols}]\n" if self.pages else ""

    def _watched(self) -> str:
        watched = {result.name: f"cpu {result.cpu} {result.register}" for result in self.results if result.register}
        watched |= {f"faults {cpu}": f"cpu {cpu} {FAULTS}" for cpu in range(len(self.programs)) if self.pages}
        watched |= {name: f"word page_{name}" for name in self.locations}
        watched |= {f"pte {name}": f"entry page_{name}" for name in self.locations if self.pages}
        return "".join(f'"{name}" = "{what}"\n' for name, what in watched.items())

    def _set(self) -> str:
        """Assembly of the entries at the beginning."""
        lines = ""
        for name in NAMES:
            entry = self.entry(name)
            lines += f"    P_SET page_{name}, {self._value(entry)}\n" if entry.frame else f"    P_CLEAR page_{name}\n"
        return lines

    def _value(self, entry: Entry) -> str:
        """An entry as P_VALUE takes it."""
        bits = NX | (G if self.global_pages else 0)
        for flag in entry.flags:
            bits |= PTE_BITS[flag]
        return f"page_{entry.frame}, {bits:#x}"

    def _program(self, cpu: int) -> str:
        registers = [result.register for result in self.results if result.cpu == cpu and result.register]
        lines = [f"program_{cpu}:", *(f"    xor {register}, {register}" for register in (*registers, FAULTS))]
        free = iter(registers)
        for place, one in enumerate(self.programs[cpu]):
            into, after = next(free) if one.gives else "", f".Lbehind_{cpu}_{place}"
            lines.append(f"    # {one}")
            lines += [f"    P_TRY {place}, {after}"] if one.accesses else []
            lines += [f"    {line}" for line in self._operation(cpu, one, into)]
            lines += [f"    P_DONE {place}, {after}"] if one.accesses else []
        return "\n".join([*lines, "    jmp litmus_end\n"])

    def _operation(self, cpu: int, one: Operation, into: str) -> list[str]:
        """Assembly of one operation; its result goes `into` a register."""
        page = f"page_{one.name}"
        simple = {
            "store": [f"mov qword ptr [rip+{page}], {one.value}"],
            "load": [f"mov {into}, [rip+{page}]"],
            "exchange": [f"mov {into}, {one.value}", f"xchg {into}, [rip+{page}]"],
            "fence": ["mfence"],
            "lock": ["lock inc qword ptr [rsp-8]"],
            "invlpg": [f"invlpg [rip+{page}]"],
            "cr3": ["mov eax, KERNEL_PML4", "mov cr3, rax"],
            "send": [f"P_SEND {cpu}, {one.where}, {len(self.programs) - 1}"],
            "wait": [f"P_WAIT {cpu}"],
            "entry-load": [f"P_ENTRY rdx, {page}", f"mov {into}, [rdx]"],
        }
        return simple.get(one.what) or [f"P_ENTRY rdx, {page}", *self._on_entry(one, into)]

    def _on_entry(self, one: Operation, into: str) -> list[str]:
        """The same of what changes the entry at rdx."""
        if one.flag:
            bit, sets = PTE_BITS[one.flag[1]], one.flag[0] == "+"
            if one.what == "entry-lock":
                number = bit.bit_length() - 1
                return [
                    f"mov {into}, 0",
                    f"lock {'bts' if sets else 'btr'} qword ptr [rdx], {number}",
                    f"adc {into}, 0",
                ]
            return ["mov rax, [rdx]", f"or rax, {bit}" if sets else f"and rax, {~bit}", "mov [rdx], rax"]
        assert one.entry is not None
        value = self._rax(one.entry)
        if one.what == "entry-store":
            return [*value, "mov [rdx], rax"]
        if one.what == "entry-exchange":
            return [*value, "xchg rax, [rdx]", f"mov {into}, rax"]
        assert one.expected is not None
        expected = self._rax(one.expected)
        return [*value, f"mov {into}, rax", *expected, f"lock cmpxchg [rdx], {into}", f"mov {into}, rax"]

    def _rax(self, entry: Entry) -> list[str]:
        return [f"P_VALUE {self._value(entry)}"] if entry.frame else ["xor eax, eax"]

    # --- read back

    def outcome(self, values: Mapping[str, int], symbols: Symbols) -> FinalValues:
        """Final values by name from what is watched in the scenario."""
        found: list[tuple[str, Value]] = []
        frames = {((symbols.address(f"page_{name}") or 0) - KERNEL_BASE) & FRAME_MASK: name for name in NAMES}
        for name, cpu, place, one, register in self.results:
            faulted = self.pages and one.accesses and values[f"faults {cpu}"] >> place & 1
            value: Value = FAULT if faulted else values[name] if register else OK
            if one.what.startswith("entry-") and one.what != "entry-lock":
                value = _entry(values[name], frames)
            found.append((name, value))
        found += [(name, values[name]) for name in self.locations]
        found += [(f"pte {name}", _entry(values[f"pte {name}"], frames)) for name in self.locations if self.pages]
        return tuple(found)


def _entry(value: int, frames: Mapping[int, str]) -> str:
    """A leaf entry by name."""
    flags = "".join(flag for flag in FLAGS if value & PTE_BITS[flag])
    return str(Entry(frames.get(value & FRAME_MASK, ""), flags))


__all__ = ["FAULT", "OK", "FinalValues", "Litmus", "Value"]
