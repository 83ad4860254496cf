"""What CONTRIBUTING promises of every docstring, every command and every public name."""

import ast
import re
import shlex

import pytest
from tools import house
from torch import nn

import documentation
import skipshift
from skipshift.cli.main import app, main

PAGES = "\n".join(page.read_text(encoding="utf-8") for page in documentation.PAGES)
READERS = [f"prepare {name}" for name in app["prepare"] if not name.startswith("-")]
COMMANDS = [name for name in app if not name.startswith("-")]


def public(tree):
    """Public functions, classes and methods of a module, (name, node, docstring of its class)."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node, ""
            for inner in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    yield f"{node.name}.{inner.name}", inner, ast.get_docstring(node) or ""


def raised(function):
    """Names of the errors that a function raises itself."""
    for node in ast.walk(function):
        call = node.exc if isinstance(node, ast.Raise) else None
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name | ast.Attribute):
            name = call.func.id if isinstance(call.func, ast.Name) else call.func.attr
            # a function in lower case builds the error; its own name says nothing to a reader
            if name[:1].isupper():
                yield name


@pytest.mark.parametrize("module", house.ORDER)
def test_a_public_docstring_names_the_errors_that_it_raises(module):
    path = house.SOURCE / f"{module.replace('.', '/')}.py"
    silent = [
        f"{name}: {error}"
        for name, node, around in public(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        for error in set(raised(node))
        if f"`{error}`" not in (ast.get_docstring(node) or "") + around
    ]
    assert not silent


@pytest.mark.parametrize("module", house.ORDER)
def test_every_field_of_a_spec_has_a_docstring(module):
    path = house.SOURCE / f"{module.replace('.', '/')}.py"
    bare = []
    for _, node, _ in public(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ClassDef) or not node.name.endswith("Spec"):
            continue
        for field, after in zip(node.body, [*node.body[1:], None], strict=True):
            told = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            name = getattr(getattr(field, "target", None), "id", "")
            if isinstance(field, ast.AnnAssign) and not name.startswith("__") and not told:
                bare.append(f"{node.name}.{name}")
    assert not bare


@pytest.mark.parametrize("command", [*COMMANDS, *READERS])
def test_a_command_stands_in_the_docs_and_its_help_ends_with_an_example_that_parses(
    command, capsys
):
    assert f"skipshift {command} " in PAGES
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    example = re.search(r"\nExample:\n  skipshift (.+)\n$", capsys.readouterr().out)
    assert example, "add 'Example: skipshift ...' of one line of 80 columns to its spec's docstring"
    assert f"{example[1]} ".startswith(f"{command} ")
    app.parse_args(shlex.split(example[1]), exit_on_error=False, print_error=False)


def test_the_docs_use_public_names_only():
    used = set(re.findall(r"\bss\.(\w+)", PAGES)) | set(re.findall(r"\bskipshift\.(\w+)\(", PAGES))
    for names in re.findall(r"from skipshift import ([\w, ]+)", PAGES):
        used |= set(names.replace(" ", "").split(","))
    assert not used - set(skipshift.__all__)
    assert not re.findall(r"(?:from|import) skipshift\.[\w.]+", PAGES)


@pytest.mark.parametrize("name", skipshift.__all__)
def test_a_public_name_is_documented(name):
    code = rf"\b(ss|skipshift)\.{name}\b|`{name}[`(.]|from skipshift import [\w, ]*\b{name}\b"
    assert re.search(code, PAGES)


def test_every_public_result_shows_itself_in_a_notebook():
    public = [getattr(skipshift, name) for name in skipshift.__all__]
    results = [
        one
        for one in public
        if isinstance(one, type)
        and not issubclass(one, nn.Module | Exception)
        and not one.__name__.endswith(("Spec", "RunOutput"))
    ]
    assert skipshift.Profile in results
    assert [one.__name__ for one in results if not hasattr(one, "_repr_html_")] == []
