"""The tables of `defectlab summary`: layers, the formulas with numbers, what separable convolutions save."""

from collections.abc import Iterator, Sequence

from rich.markup import escape

from defectlab.cli.tables import new_table, print_wide
from defectlab.summary.layers import Layer, NetworkSummary, Separable, shape_text

_LAYERS = ("layer", "kind", "input", "output", "K", "S", "P", "parameters", "multiply-adds", "field", "jump")
_SAVINGS = (
    "depthwise", "1×1", "k²", "M", "N", "H×W", "weights", "standard", "multiply-adds", "standard", "ratio", "1/N + 1/k²",
)  # fmt: skip


def print_layers(title: str, whole: NetworkSummary) -> None:
    """The table of layers, what its columns mean, and the totals."""
    table = new_table(f"{title}, an image of {shape_text(whole.image)}", _LAYERS, left=(0, 1), wraps=False)
    for group in _groups(whole.layers):
        table.add_row(*_cells(group), style=None if group[0].agrees else "bold red")
    print_wide(table)
    for layer in whole.layers:
        if layer.expected is not None and not layer.agrees:
            came, formula = shape_text(layer.output[1:]), shape_text(layer.expected)
            print(f"DISAGREES      {layer.name}: {came} came out, the formula gives {formula}")
    print(
        f"parameters     {whole.parameters:,}; {4 * whole.parameters / 2**20:,.2f} MiB in float32\n"
        f"multiply-adds  {whole.multiply_adds:,} an image, in convolutions and linear layers, without biases"
    )
    if whole.parameters_elsewhere or whole.multiply_adds_elsewhere:
        print(
            f"elsewhere      {whole.parameters_elsewhere:,} of these parameters and {whole.multiply_adds_elsewhere:,} of "
            "these multiply-adds are in no layer of the table"
        )
    print(
        "kind           a layer with its normalisation and activation; in small letters an operation between layers\n"
        "K, S, P        kernel, stride, padding; dw: depthwise, d: dilation, g: groups\n"
        "field, jump    pixels of the image: the side of what a position sees, by the longest path where branches meet, and "
        "the way to the next position"
    )
    reaches = [layer.receptive_field for layer in whole.layers if layer.receptive_field is not None]
    if any(reach.whole and reach.field is not None for reach in reaches):
        print("*              beside this window a summary of the whole image, through a global pool in some branch")


def print_first(whole: NetworkSummary) -> None:
    """The formulas, with the numbers of the first convolution in them."""
    first = next((layer for layer in whole.layers if layer.window is not None and layer.multiply_adds), None)
    if first is None or first.window is None:
        return
    made, height, width = first.output
    k, s, p, d = (
        pair[1] for pair in (first.window.kernel, first.window.stride, first.window.padding, first.window.dilation)
    )
    seen = d * (k - 1) + 1
    factors = f"{first.window.kernel[0]} · {k} · {first.input[0] // first.groups} · {made}"
    biases = first.parameters - first.multiply_adds // (height * width)
    print(
        f"\nthe first convolution, {first.name or 'the whole network'}, in numbers\n"
        f"width          ⌊(W - K + 2P) / S⌋ + 1 = ⌊({first.input[2]} - {seen} + 2 · {p:g}) / {s}⌋ + 1 = "
        f"{first.window.output(first.input[1:])[1]}\n"
        f"parameters     K · K · C · N{' + N' if biases else ''} = {factors}{f' + {biases}' if biases else ''} = "
        f"{first.parameters:,}\n"
        f"multiply-adds  K · K · C · N · H · W = {factors} · {height} · {width} = {first.multiply_adds:,}\n"
        f"field          1 + (K - 1) = {seen}; every later window adds (K - 1) · jump, then multiplies the jump by its S"
    )


def print_savings(whole: NetworkSummary) -> None:
    """Every depthwise separable convolution beside the standard one, and both networks in all."""
    pairs = whole.separable()
    if not pairs:
        print("\ndepthwise separable convolutions: none")
        return
    title = "depthwise separable, k²·M + M·N weights, beside standard, k²·M·N"
    table = new_table(title, _SAVINGS, left=(0, 1), wraps=False)
    for pair in pairs:
        m, n = pair.depthwise.output[0], pair.pointwise.output[0]
        table.add_row(
            escape(pair.depthwise.name), escape(pair.pointwise.name), str(pair.kernel), str(m), str(n),
            shape_text(pair.pointwise.output[1:]), *map(_count, _sums([pair])), f"{pair.ratio:.4f}",
            f"{1 / n + 1 / pair.kernel:.4f}",
        )  # fmt: skip
    table.add_section()
    table.add_row("all", "", "", "", "", "", *map(_count, _sums(pairs)), "", "")
    print()
    print_wide(table)
    own, standard = _sums(pairs)[::2], _sums(pairs)[1::2]
    kinds, wholes = ("parameters     ", "multiply-adds  "), (whole.parameters, whole.multiply_adds)
    for kind, count, few, many in zip(kinds, wholes, own, standard, strict=True):
        instead = count - few + many
        print(
            f"{kind}of all pairs {few / many:.4f} of the standard; of the whole network {count:,}, with standard convolutions "
            f"{instead:,}, {instead / count:.1f} times as many"
        )


def _sums(pairs: Sequence[Separable]) -> tuple[int, int, int, int]:
    """Weights and multiply-adds, each beside those of standard convolutions."""
    return (
        sum(pair.weights for pair in pairs),
        sum(pair.standard_weights for pair in pairs),
        sum(pair.weights * pair.positions for pair in pairs),
        sum(pair.standard_weights * pair.positions for pair in pairs),
    )


def _groups(layers: Sequence[Layer]) -> Iterator[list[Layer]]:
    """Each layer with those after it that leave the size as it is: normalisation, activation, dropout."""
    group: list[Layer] = []
    for layer in layers:
        begins = _is_operation(layer) or layer.window is not None or layer.multiply_adds or layer.input != layer.output
        # An operation is of the module around it: what follows elsewhere is not its own.
        if group and (begins or (_is_operation(group[0]) and not layer.name.startswith(f"{group[0].name}."))):
            yield group
            group = []
        group.append(layer)
    if group:
        yield group


def _is_operation(layer: Layer) -> bool:
    return layer.kind[0].islower()


def _cells(group: Sequence[Layer]) -> list[str]:
    first = group[0]
    kernel = stride = padding = field = jump = ""
    if first.window is not None:
        kernel, stride, padding = (_side(p) for p in (first.window.kernel, first.window.stride, first.window.padding))
        kernel = (
            ("dw " if first.is_depthwise else f"g{first.groups} " if first.groups > 1 else "")
            + (f"d{_side(first.window.dilation)} " if first.window.dilation != (1, 1) else "")
            + kernel
        )
    if first.receptive_field is not None:
        field = "image"
        if first.receptive_field.field is not None:
            field = _side(first.receptive_field.field) + ("*" if first.receptive_field.whole else "")
            jump = _side(first.receptive_field.jump)
    return [
        escape(first.name or "(network)"), escape(", ".join(layer.kind for layer in group)), shape_text(first.input),
        shape_text(first.output), kernel, stride, padding, _count(sum(layer.parameters for layer in group)),
        _count(sum(layer.multiply_adds for layer in group)), field, jump,
    ]  # fmt: skip


def _side(pair: Sequence[float]) -> str:
    """One number for a square."""
    return f"{pair[0]:g}" if pair[0] == pair[1] else shape_text(pair)


def _count(number: int) -> str:
    return f"{number:,}" if number else ""
