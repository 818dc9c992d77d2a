"""Random toy windows: small enough for a search that remembers every state."""

import random

from explore_toys import Program, Toy

VARIABLES = ("x", "y")
LOCKS = ("a", "b")
OBJECTS = ("p", "q")


def random_window(seed: int) -> Toy:
    """Return a window of two or three threads, and whom they bear."""
    rng = random.Random(seed)
    count = rng.choice((2, 2, 3))
    longest = 7 if count == 2 else 4
    return Toy(*(random_program(rng, rng.randint(2, longest)) for _ in range(count)))


def random_program(rng: random.Random, length: int, depth: int = 0) -> Program:
    """Return instructions that keep no lock and leave interrupts on, mostly."""
    program: list[tuple] = []
    while len(program) < length:
        program += random_piece(rng, depth)
    return program


def random_piece(rng: random.Random, depth: int) -> Program:
    x, lock, thing = rng.choice(VARIABLES), rng.choice(LOCKS), rng.choice(OBJECTS)
    field = rng.randint(0, 1)
    plain = [("look", x)], [("set", x, rng.randint(1, 2))], [("inc", x), ("look", x)]
    objects = [("use", thing, field)], [("free", thing)]
    if depth > 1:
        return rng.choice((*plain, *objects))
    inner = random_program(rng, rng.randint(0, 2), depth + 1)
    shaped = (
        [("lock", lock), *inner, ("unlock", lock)],
        [("lock", lock), *inner, ("unlock", lock)],
        [("lock", lock), ("flush",), ("unlock", lock)],
        [("rlock", lock), *inner, ("unlock", lock)],
        [("lock", lock), ("set", x, 3), ("downgrade", lock), *inner, ("unlock", lock)],
        [("try", lock, inner)],
        [("spin", lock)],
        [("spin", lock, x)],
        [("if", x, rng.randint(0, 2), inner)],
    )
    if depth:
        return rng.choice((*plain, *objects, *shaped))
    outer = (
        [("off",), *straight(inner), ("on",)],
        [("off",), ("lock", lock), *straight(inner), ("unlock", lock), ("on",)],
        [("flush",)],
        [("flush",)],
        [("spawn", rng.choice(("x", "s")), straight(inner))],
        [("lock", lock)],
    )
    return rng.choice((*plain, *objects, *shaped, *shaped, *outer))


def straight(program: Program) -> Program:
    """Return what of ``program`` may stand where interrupts are off."""
    return [each for each in program if each[0] in ("look", "set", "inc", "use")]
