"""The map of the code: each module's first docstring line, and which package imports which.

`python -m tools.house` writes the map to docs/design.md and prints the imports between rooms.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/skipshift"
PAGE = ROOT / "docs/design.md"
START, END = "<!-- the map: made by `make map` -->", "<!-- end of the map -->"

ROOMS = {
    "": "errors names validation specs study_specs spec_files records checksums progress extras "
    "shifts",
    "data": "images itk volumes pages zarrs slices manifest splits preprocess batches crops",
    "data.slides": "reader geojson annotations affine registration overlays quadtree",
    "data.prepare": "options slide_options writing patterns labels folder merge mms specimens "
    "regions scc published corrections stains point_patches mitosis procedural smear_masks "
    "smear_boxes smear_search templates synthetic",
    "data.sets": "groups tiles sources reading",
    "data.checks": "findings thumbnails group_tests value_range channel_order orientation "
    "alignment common_detail duplicates magnification padding domains preflight",
    "networks": "addresses as_found architectures inference trace crossing stages layers weights "
    "unet outputs hooks quantile_map stain_maps changes mended archives checkpoints input_values "
    "allocator "
    "losses mask_proposals pooling feature_store features",
    "statistics": "counts metrics distances resampling two_sample multiplicity excess layer_tests "
    "crossed scores metric_scores recovery passing gains comparisons confidence estimates "
    "corrected quantification oddness",
    "page": "outside wording ordering style study_results comparison_sentences profile_sentences "
    "carry_sentences remedy_sentences diagnosis_sentences estimate_sentences "
    "study_sentences charts carry_chart group_chart pictures shell u_drawing u_picture "
    "example_pictures tables findings diagnosis_page command_pages study_network beside_iou "
    "paper_numbers report review",
    "profile": "fingerprints inputs layerwise fingerprinting profile profiling",
    "patching": "cached_forward inputs paths labelled feeds patcher trial behind carry",
    "estimate": "settings calibration_shifts measuring estimating prevalence scoring",
    "remedies": "places gathering setting feature_remedies input_remedies last_layer passes "
    "judging mistakes likeness causes negative_control without_masks ranking pairs attempts result "
    "remedy examples diagnosis kept inputs",
    "study": "loggers training evaluation made contents grid sets cures opening steps workers "
    "cluster views study plan demo export",
    "cli": "arguments inputs network_commands remedy_commands estimate_commands doctor_command "
    "commands help_text words main",
}
"""Modules of each room, rooms and modules in the order in which they may import each other."""

ORDER = [f"{room}.{name}".lstrip(".") for room, names in ROOMS.items() for name in names.split()]


def modules() -> set[str]:
    """Names of all modules, without the packages themselves and `__main__`."""
    paths = (p.relative_to(SOURCE).with_suffix("") for p in SOURCE.rglob("*.py"))
    return {".".join(path.parts) for path in paths if not path.name.startswith("__")}


def imports(module: str) -> Iterator[str]:
    """Modules of the package that a module imports at its top level."""
    tree = ast.parse((SOURCE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("skipshift"):
            home = (node.module or "").removeprefix("skipshift").lstrip(".")
            names = [alias.name for alias in node.names]
            yield from [home] if home in ORDER else [f"{home}.{n}".lstrip(".") for n in names]


def first_line(path: Path) -> str:
    """First line of a file's docstring, without its full stop."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].rstrip(".")


def room_of(module: str) -> str:
    """Top-level room of a module; ``ground`` for modules outside any package."""
    return module.partition(".")[0] if "." in module else "ground"


def arrows() -> Counter[tuple[str, str]]:
    """Count the imports between top-level rooms, (from, to) -> how many."""
    pairs = ((room_of(m), room_of(to)) for m in ORDER for to in imports(m))
    return Counter(pair for pair in pairs if pair[0] != pair[1])


def drawn() -> str:
    """Draw the map: one line per module, in the order of imports."""
    width = max(len(name) for names in ROOMS.values() for name in names.split()) + 2
    lines = []
    for room, names in ROOMS.items():
        folder = SOURCE / room.replace(".", "/")
        title = first_line(folder / "__init__.py") if room else "Words, settings and files"
        lines.append(f"{room.replace('.', '/') + '/' if room else 'ground'}: {title}")
        lines += [f"  {n:{width}}{first_line(folder / f'{n}.py')}" for n in names.split()]
    return "\n".join(lines)


def page() -> str:
    """Text of docs/design.md with the map as it is now."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n```\n{drawn()}\n```\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    counts = arrows()
    for (source, target), number in sorted(counts.items()):
        print(f"{source} -> {target}: {number}")
    print(f"{len(counts)} arrows between rooms, {sum(counts.values())} imports")
