"""`defectlab summary`: what a network is made of, layer by layer, or several networks side by side."""

from dataclasses import dataclass

from defectlab.cli.arguments import CommandParser, output_file
from defectlab.cli.summary_compare import compare
from defectlab.cli.summary_tables import print_first, print_layers, print_savings
from defectlab.errors import InputError
from defectlab.runs import csv_text, write_text
from defectlab.summary.layers import Layer, shape_text
from defectlab.summary.subject import resolve_network
from defectlab.summary.trace import summarize
from defectlab.utils.text import shown_path


@dataclass(frozen=True)
class Row:
    """One row of --csv: a call of a layer, or an operation between layers; empty where it has no such number."""

    layer: str
    kind: str
    input: str
    output: str
    output_by_formula: str
    kernel: str
    stride: str
    padding: str
    dilation: str
    groups: int
    parameters: int
    multiply_adds: int
    receptive_field: str
    jump: str
    sees_whole_image: str


def run(words: list[str]) -> int:
    """Print the layers of one network, or compare several."""
    if words[:1] == ["compare"]:
        return compare(words[1:])
    parser = CommandParser(
        "defectlab summary",
        "The layers of a network: sizes, parameters, multiply-adds, receptive field, and what depthwise separable "
        "convolutions save. `summary RUN`, or `summary --config C ...` with arguments of fit. `summary compare` puts "
        "networks side by side.",
    )
    parser.add_argument("--config", help="a YAML file or the name of a shipped one, in place of a run folder")
    parser.add_argument("--csv", type=output_file, metavar="FILE", help="to write every layer to, one a row")
    named, given, more = parser.parse_with_folder(words)
    if (named is None) == (given.config is None):
        raise InputError("summary needs one of two: a run folder or .ckpt file, or --config")
    found = resolve_network(str(named) if named is not None else given.config, more)
    whole = summarize(found.network, found.image)
    print_layers(f"{found.name}: {type(found.network).__name__}, {found.classes} classes", whole)
    print_first(whole)
    print_savings(whole)
    if given.csv is not None:
        write_text(given.csv, csv_text(Row, [_row(layer) for layer in whole.layers]))
        print(f"\nwritten to     {shown_path(given.csv)}")
    return 0


def _row(layer: Layer) -> Row:
    window, reach = layer.window, layer.receptive_field
    local = reach is not None and reach.field is not None
    return Row(
        layer=layer.name, kind=layer.kind, input=shape_text(layer.input), output=shape_text(layer.output),
        output_by_formula=shape_text(layer.expected or ()), kernel=shape_text(window.kernel if window else ()),
        stride=shape_text(window.stride if window else ()), padding=shape_text(window.padding if window else ()),
        dilation=shape_text(window.dilation if window else ()), groups=layer.groups, parameters=layer.parameters,
        multiply_adds=layer.multiply_adds, receptive_field=shape_text((reach.field if reach else None) or ()),
        jump=shape_text(reach.jump if reach and local else ()),
        sees_whole_image="" if reach is None else str(reach.whole).lower(),
    )  # fmt: skip
