# mypy: ignore-errors
# Triton compiles these functions from their source; Python never runs them
"""Triton kernels of Bi-WKV: a sequence is cut into chunks, a program works on one chunk and some channels.

``x`` stands for what is summed: ``E v`` and ``E = exp(k - highest)``, and in the backward pass the gradients ``g`` and
``g y`` of numerator and denominator. A chunk is cut again into segments, one for each row of threads, which walk them
token by token; lists of tokens are tuples of ``(SEGMENTS, WIDTH)`` tensors. Numbers are float32 whatever the storage.
Decay over more than a segment is one exponential of its distance, never a product of many rounded steps: their errors
would pile up over 2^18 tokens.
"""

import triton
import triton.language as tl

# a little above the limit that the caller keeps (triton_form.is_safe), to allow for rounding
_EXPONENT = tl.constexpr(30.01)


@triton.jit
def _place(chunks, channels, WIDTH: tl.constexpr):
    """Image, chunk and channels of this program; neighbors in the grid share the pixels."""
    blocks = tl.cdiv(channels, WIDTH)
    program = tl.program_id(0)
    c = (program % blocks) * WIDTH + tl.arange(0, WIDTH)
    return (program // blocks) // chunks, (program // blocks) % chunks, c


@triton.jit
def _pixels(image, chunk, c, tokens, height, width, channels, COLUMNS: tl.constexpr, LENGTH: tl.constexpr):
    """Where the chunk's tokens lie in a ``(B, H, W, C)`` tensor, and which of them exist; both ``(LENGTH, WIDTH)``."""
    t = chunk * LENGTH + tl.arange(0, LENGTH)
    pixel = (t % height) * width + t // height if COLUMNS else t
    inside = (t < tokens)[:, None] & (c < channels)[None, :]
    return (image.to(tl.int64) * tokens + pixel)[:, None] * channels + c[None, :], inside


@triton.jit
def _decay(decay, c, divisor, channels, tokens):
    """Decay per token; not a number where the sums would leave float32."""
    w = tl.load(decay + c, mask=c < channels, other=0.0).to(tl.float32) / divisor
    return tl.where(tl.abs(w) * tokens <= _EXPONENT, w, float("nan"))


@triton.jit
def _bonus(first, c, divisor, channels):
    """Weight of a token for itself; not a number where the sums would leave float32."""
    u = tl.load(first + c, mask=c < channels, other=0.0).to(tl.float32) / divisor
    return tl.exp(tl.where(tl.abs(u) <= _EXPONENT, u, float("nan")))[None, :]


@triton.jit
def _powers(w, positions, last):
    """Powers of the decay by distance from the middle of ``0..last``: ``rise``, ``fall``, and ``edge`` at the ends.

    They turn a decayed sum into a plain one: ``fall * cumsum(rise * x)``. Positions beyond ``last`` stay there.
    """
    distance = (tl.minimum(positions, last) - 0.5 * last)[:, None] * w[None, :]
    return tl.exp(distance), tl.exp(-distance), tl.exp(-0.5 * last * w)[None, :]


@triton.jit(do_not_specialize=["images", "chunks", "tokens", "height", "width", "last"])
def totals_kernel(
    decay, k, v, top, totals, divisor, images, chunks, tokens, height, width, channels, last,
    COLUMNS: tl.constexpr, LENGTH: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The largest key of each chunk and the chunk's sums relative to it."""
    image, chunk, c = _place(chunks, channels, WIDTH)
    at, inside = _pixels(image, chunk, c, tokens, height, width, channels, COLUMNS, LENGTH)
    keys = tl.load(k + at, mask=inside, other=float("-inf")).to(tl.float32)
    values = tl.load(v + at, mask=inside, other=0.0).to(tl.float32)
    largest = tl.max(keys, 0)
    e = tl.where(inside, tl.exp(keys - largest[None, :]), 0.0)
    w = _decay(decay, c, divisor, channels, tokens)
    rise, fall, edge = _powers(w, tl.arange(0, LENGTH), last)
    here = (image.to(tl.int64) * chunks + chunk) * channels + c
    known = c < channels
    tl.store(top + here, largest, mask=known)
    size = images.to(tl.int64) * chunks * channels
    # as the first token of the next chunk and the last token of the previous one see them
    tl.store(totals + here, tl.sum(edge * rise * e * values, 0), mask=known)
    tl.store(totals + size + here, tl.sum(edge * rise * e, 0), mask=known)
    tl.store(totals + 2 * size + here, tl.sum(edge * fall * e * values, 0), mask=known)
    tl.store(totals + 3 * size + here, tl.sum(edge * fall * e, 0), mask=known)


@triton.jit
def _scaled_total(totals, top, highest, at, mask):
    """Read chunks' totals, relative to the largest key of the image where ``top`` is given."""
    x = tl.load(totals + at, mask=mask, other=0.0)
    if top is not None:
        x *= tl.exp(tl.load(top + at, mask=mask, other=float("-inf")) - highest[None, :])
    return x


@triton.jit(do_not_specialize=["images", "chunks", "tokens", "last"])
def carry_kernel(
    decay, top, totals, highest, carried, divisor, images, chunks, tokens, channels, last,
    COUNT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """What each chunk gets from those before it (grid axis 1 is 0) and after it (1); ``highest`` is the largest key."""
    blocks = tl.cdiv(channels, WIDTH)
    image, c = tl.program_id(0) // blocks, (tl.program_id(0) % blocks) * WIDTH + tl.arange(0, WIDTH)
    backwards = tl.program_id(1)
    known = c < channels
    i = tl.arange(0, COUNT)
    offset = image.to(tl.int64) * chunks * channels
    largest = tl.full((WIDTH,), float("-inf"), tl.float32)
    if top is not None:
        for start in range(0, chunks, COUNT):
            at = offset + (start + i)[:, None] * channels + c[None, :]
            x = tl.load(top + at, mask=(start + i < chunks)[:, None] & known[None, :], other=float("-inf"))
            largest = tl.maximum(largest, tl.max(x, 0))
        tl.store(highest + image * channels + c, largest, mask=known & (backwards == 0))

    w = _decay(decay, c, divisor, channels, tokens) * (last + 1)
    final = tl.minimum(chunks, COUNT) - 1
    rise, fall, edge = _powers(w, i, final)
    whole = tl.exp(-w * (final + 1))
    size = images.to(tl.int64) * chunks * channels
    # numerators and denominators of the direction
    first, second = totals + 2 * backwards * size, totals + (2 * backwards + 1) * size
    out_first, out_second = carried + 2 * backwards * size, carried + (2 * backwards + 1) * size
    held_first, held_second = tl.zeros((WIDTH,), tl.float32), tl.zeros((WIDTH,), tl.float32)
    for start in range(0, chunks, COUNT):
        n = start + i
        row = tl.where(backwards == 1, chunks - 1 - n, n)
        here = offset + row[:, None] * channels + c[None, :]
        exists = (n < chunks)[:, None] & known[None, :]
        # the chunk just passed, in the direction of travel; what came before this loop's chunks is held
        passed = here + tl.where(backwards == 1, channels, -channels)
        there = exists & (i > 0)[:, None]
        x = _scaled_total(first, top, largest, passed, there)
        y = _scaled_total(second, top, largest, passed, there)
        tl.store(out_first + here, fall * (tl.cumsum(rise * x, 0) + edge * held_first[None, :]), mask=exists)
        tl.store(out_second + here, fall * (tl.cumsum(rise * y, 0) + edge * held_second[None, :]), mask=exists)
        x = _scaled_total(first, top, largest, here, exists)
        y = _scaled_total(second, top, largest, here, exists)
        held_first = whole * held_first + tl.sum(edge * rise * x, 0)
        held_second = whole * held_second + tl.sum(edge * rise * y, 0)


@triton.jit
def _walk(
    image, chunk, c, tokens, height, width, channels,
    COLUMNS: tl.constexpr, SEGMENTS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Where the segments' tokens lie in a ``(B, H, W, C)`` tensor, step by step, and which of them exist."""
    t = (chunk * SEGMENTS + tl.arange(0, SEGMENTS)) * STEPS
    line, place = t // height, t % height
    at, inside = (), ()
    for step in tl.static_range(STEPS):
        if COLUMNS:
            pixel = place * width + line
            place += 1
            line = tl.where(place == height, line + 1, line)
            place = tl.where(place == height, 0, place)
        else:
            pixel = t + step
        at += ((image.to(tl.int64) * tokens + pixel)[:, None] * channels + c[None, :],)
        inside += ((t + step < tokens)[:, None] & (c < channels)[None, :],)
    return at, inside


@triton.jit
def _keys_and_values(k, v, highest, at, inside, STEPS: tl.constexpr):
    """``E``, ``v`` and ``E v`` of each step; 0 where there is no token."""
    e, values, ev = (), (), ()
    for s in tl.static_range(STEPS):
        key = tl.load(k + at[s], mask=inside[s], other=float("-inf")).to(tl.float32)
        value = tl.load(v + at[s], mask=inside[s], other=0.0).to(tl.float32)
        weight = tl.where(inside[s], tl.exp(key - highest), 0.0)
        e += (weight,)
        values += (value,)
        ev += (weight * value,)
    return e, values, ev


@triton.jit
def _sweep(x, inside, fading, forward, backward, STEPS: tl.constexpr):
    """Decayed sums before and after each token of a segment, given those at its ends; and what it hands on."""
    before, after = (), ()
    for s in tl.static_range(STEPS):
        before += (forward,)
        forward = tl.where(inside[s], fading * forward + x[s], forward)  # past the last token it may not grow
        after = (backward,) + after  # noqa: RUF005
        backward = fading * backward + x[STEPS - 1 - s]
    return before, after, forward, backward


@triton.jit
def _fadings(w, tokens, SEGMENTS: tl.constexpr, STEPS: tl.constexpr):
    """Decays by a token, and from one segment to another without the token's: ``(to, from, WIDTH)``, earlier and later.

    Then, for each segment, from the chunk's start and end, ``(SEGMENTS, WIDTH)``.
    """
    segment = tl.arange(0, SEGMENTS)
    steps = (segment[:, None] - segment[None, :]) * STEPS
    # distances longer than the sequence lie between tokens that do not exist: their decay may not overflow
    apart = tl.minimum(tl.maximum(tl.abs(steps) - STEPS, 0), tokens)
    between = tl.exp(-apart[:, :, None] * w[None, None, :])
    start = tl.exp(-tl.minimum(segment * STEPS, tokens)[:, None] * w[None, :])
    end = tl.exp(-tl.minimum((SEGMENTS - 1 - segment) * STEPS, tokens)[:, None] * w[None, :])
    earlier = tl.where((steps > 0)[:, :, None], between, 0.0)
    later = tl.where((steps < 0)[:, :, None], between, 0.0)
    return tl.exp(-w)[None, :], earlier, later, start, end


@triton.jit
def _sums(x, inside, fadings, before, after, STEPS: tl.constexpr):
    """Decayed sums over all tokens before and after each one; ``before`` and ``after`` come from other chunks."""
    fading, earlier, later, start, end = fadings
    nothing = tl.zeros_like(x[0])
    _, _, forward, backward = _sweep(x, inside, fading, nothing, nothing, STEPS)
    # every segment from all earlier ones, and from all later ones
    forward = tl.sum(earlier * forward[None, :, :], 1) + start * before[None, :]
    backward = tl.sum(later * backward[None, :, :], 1) + end * after[None, :]
    all_before, all_after, _, _ = _sweep(x, inside, fading, forward, backward, STEPS)
    return all_before, all_after


@triton.jit(do_not_specialize=["images", "chunks", "tokens", "height", "width"])
def mix_kernel(
    decay, first, k, v, r, highest, carried, y, divisor, images, chunks, tokens, height, width, channels,
    COLUMNS: tl.constexpr, SEGMENTS: tl.constexpr, STEPS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The result, times ``sigmoid(r)`` where ``r`` is given."""
    image, chunk, c = _place(chunks, channels, WIDTH)
    at, inside = _walk(image, chunk, c, tokens, height, width, channels, COLUMNS, SEGMENTS, STEPS)
    known = c < channels
    largest = tl.load(highest + image * channels + c, mask=known, other=0.0)[None, :]
    e, _, ev = _keys_and_values(k, v, largest, at, inside, STEPS)
    fadings = _fadings(_decay(decay, c, divisor, channels, tokens), tokens, SEGMENTS, STEPS)
    bonus = _bonus(first, c, divisor, channels)
    size = images.to(tl.int64) * chunks * channels
    passed = carried + (image.to(tl.int64) * chunks + chunk) * channels + c
    before, after = tl.load(passed, known, 0.0), tl.load(passed + 2 * size, known, 0.0)
    before_ev, after_ev = _sums(ev, inside, fadings, before, after, STEPS)
    before, after = tl.load(passed + size, known, 0.0), tl.load(passed + 3 * size, known, 0.0)
    before_e, after_e = _sums(e, inside, fadings, before, after, STEPS)
    for s in tl.static_range(STEPS):
        mixed = (before_ev[s] + after_ev[s] + bonus * ev[s]) / (before_e[s] + after_e[s] + bonus * e[s])
        if r is not None:
            mixed *= tl.sigmoid(tl.load(r + at[s], mask=inside[s], other=0.0).to(tl.float32))
        tl.store(y + at[s], mixed.to(y.dtype.element_ty), mask=inside[s])


@triton.jit(do_not_specialize=["images", "chunks", "tokens", "height", "width"])
def gradient_kernel(
    decay, first, k, v, r, grad, highest, carried, totals, handed, partial, grad_k, grad_v, grad_r,
    divisor, images, chunks, tokens, height, width, channels,
    COLUMNS: tl.constexpr, SEGMENTS: tl.constexpr, STEPS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """First pass (``handed`` is None): ``totals`` of the gradients. Second: all gradients from what was ``handed`` on.

    Those of decay and bonus come as one number for each chunk and channel in ``partial``, still to be summed.
    """
    image, chunk, c = _place(chunks, channels, WIDTH)
    at, inside = _walk(image, chunk, c, tokens, height, width, channels, COLUMNS, SEGMENTS, STEPS)
    known = c < channels
    largest = tl.load(highest + image * channels + c, mask=known, other=0.0)[None, :]
    e, values, ev = _keys_and_values(k, v, largest, at, inside, STEPS)
    w = _decay(decay, c, divisor, channels, tokens)
    fadings = _fadings(w, tokens, SEGMENTS, STEPS)
    bonus = _bonus(first, c, divisor, channels)
    size = images.to(tl.int64) * chunks * channels
    here = (image.to(tl.int64) * chunks + chunk) * channels + c
    passed = carried + here
    before, after = tl.load(passed, known, 0.0), tl.load(passed + 2 * size, known, 0.0)
    before_ev, after_ev = _sums(ev, inside, fadings, before, after, STEPS)
    before, after = tl.load(passed + size, known, 0.0), tl.load(passed + 3 * size, known, 0.0)
    before_e, after_e = _sums(e, inside, fadings, before, after, STEPS)

    gs, gys = (), ()
    for s in tl.static_range(STEPS):
        denominator = before_e[s] + after_e[s] + bonus * e[s]
        mixed = (before_ev[s] + after_ev[s] + bonus * ev[s]) / denominator
        g = tl.load(grad + at[s], mask=inside[s], other=0.0).to(tl.float32)
        if r is not None:
            gate = tl.sigmoid(tl.load(r + at[s], mask=inside[s], other=0.0).to(tl.float32))
            if handed is not None:
                of_gate = (g * mixed * gate * (1.0 - gate)).to(grad_r.dtype.element_ty)
                tl.store(grad_r + at[s], of_gate, mask=inside[s])
            g *= gate
        g = tl.where(inside[s], g / denominator, 0.0)
        gs += (g,)
        gys += (tl.where(inside[s], g * mixed, 0.0),)

    if handed is None:
        fading, _, _, start, end = fadings
        nothing = tl.zeros_like(gs[0])
        _, _, forward, backward = _sweep(gs, inside, fading, nothing, nothing, STEPS)
        tl.store(totals + here, tl.sum(end * forward, 0), mask=known)
        tl.store(totals + 2 * size + here, tl.sum(start * backward, 0), mask=known)
        _, _, forward, backward = _sweep(gys, inside, fading, nothing, nothing, STEPS)
        tl.store(totals + size + here, tl.sum(end * forward, 0), mask=known)
        tl.store(totals + 3 * size + here, tl.sum(start * backward, 0), mask=known)
    else:
        passed = handed + here
        before, after = tl.load(passed, known, 0.0), tl.load(passed + 2 * size, known, 0.0)
        before_g, after_g = _sums(gs, inside, fadings, before, after, STEPS)
        before, after = tl.load(passed + size, known, 0.0), tl.load(passed + 3 * size, known, 0.0)
        before_gy, after_gy = _sums(gys, inside, fadings, before, after, STEPS)
        by_decay = tl.zeros_like(gs[0])
        by_bonus = tl.zeros_like(gs[0])
        for s in tl.static_range(STEPS):
            of_g = before_g[s] + after_g[s] + bonus * gs[s]
            of_gy = before_gy[s] + after_gy[s] + bonus * gys[s]
            tl.store(grad_v + at[s], (e[s] * of_g).to(grad_v.dtype.element_ty), mask=inside[s])
            of_key = e[s] * (values[s] * of_g - of_gy)
            tl.store(grad_k + at[s], of_key.to(grad_k.dtype.element_ty), mask=inside[s])
            # a pair of tokens decays once for every token between them: sum over that token
            crossing = before_ev[s] * after_g[s] + after_ev[s] * before_g[s]
            crossing -= before_e[s] * after_gy[s] + after_e[s] * before_gy[s]
            by_decay += tl.where(inside[s], crossing, 0.0)
            by_bonus += tl.where(inside[s], e[s] * (gs[s] * values[s] - gys[s]), 0.0)
        tl.store(partial + here, -tl.exp(-w) * tl.sum(by_decay, 0), mask=known)
        tl.store(partial + size + here, tl.sum(bonus * by_bonus, 0), mask=known)
