/* The shootdown protocol of bench/shootdown.py, with TLBs that fill and evict at any time.
 *
 * READERS, ROUNDS and VARIANT (0 none, 1 no wait, 2 own INVLPG forgotten, 3 IPI before the clear,
 * 4 correct) are given on the command line. Processor 0 is the initiator. There are two frames, 1 and 2:
 * one mapped, one free.
 */
#define CPUS (READERS + 1)

byte entry = 1;         /* the page's entry: its frame */
bool free[3];           /* by frame */
byte tlb[CPUS];         /* what each has cached, 0 for nothing */
byte request[CPUS];
byte answer[CPUS];
bool ipi[CPUS];         /* on its way */
bool handling[CPUS];

/* an access: through the TLB or the tables; the frame must not be free */
inline look(me) {
    atomic {
        !handling[me] && (entry != 0 || tlb[me] != 0);
        if
        :: tlb[me] != 0
        :: entry != 0 -> tlb[me] = entry
        fi;
        assert(!free[tlb[me]] && (entry == 0 || tlb[me] == entry))
    }
}

inline tell() {
    other = 1;
    do
    :: other < CPUS ->
        request[other]++;
        ipi[other] = true;
        other++
    :: else -> break
    od;
    other = 1;
    do
    :: other < CPUS && VARIANT != 1 ->
        answer[other] == request[other];
        other++
    :: else -> break
    od
}

proctype initiator() {
    byte round = 0, other, old, new;
    do
    :: round < ROUNDS ->
        atomic { new = 3 - entry; free[new] = false };
        if
        :: VARIANT == 3 -> tell()
        :: else
        fi;
        atomic { old = entry; entry = 0 };
        if
        :: VARIANT == 1 || VARIANT >= 3 -> tlb[0] = 0
        :: else
        fi;
        if
        :: VARIANT == 1 || VARIANT == 2 || VARIANT == 4 -> tell()
        :: else
        fi;
        free[old] = true;
        entry = new;
        look(0);
        round++
    :: else -> break
    od
}

proctype reader(byte me) {
    byte round = 0;
    do
    :: round < ROUNDS -> look(me); round++
    :: else -> break
    od
}

proctype handler(byte me) {
    byte seen;
end:
    do
    :: atomic { ipi[me] -> ipi[me] = false; handling[me] = true; seen = request[me] };
        tlb[me] = 0;
        answer[me] = seen;
        handling[me] = false
    od
}

proctype mmu(byte me) {
end:
    do
    :: entry != 0 && tlb[me] != entry -> tlb[me] = entry
    :: tlb[me] != 0 -> tlb[me] = 0
    od
}

init {
    byte cpu = 1;
    atomic {
        free[2] = true;
        run mmu(0);
        run initiator();
        do
        :: cpu < CPUS -> run mmu(cpu); run reader(cpu); run handler(cpu); cpu++
        :: else -> break
        od
    }
}
