import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire_rules import templates


@pytest.mark.parametrize(
    ("template", "name", "text"),
    [
        ("Hi {first_name}, it is 10 euro", "Ana Example", "Hi Ana, it is 10 euro"),
        ("Hi {first_name}, it is 10 euro", "", "Hi, it is 10 euro"),
        ("{first_name} hello", "", "hello"),
        ("Hi {first_name} again", "", "Hi again"),
        ("Hi {first_name|there}!", "", "Hi there!"),
        ("Hi {first_name|there}!", "Ana", "Hi Ana!"),
        ("Dear {name}", "Ana  Example", "Dear Ana Example"),
        ("plain", "Ana", "plain"),
    ],
)
def test_a_name_is_filled_in_or_left_out_with_a_space(template: str, name: str, text: str) -> None:
    assert templates.render(template, name) == text


@pytest.mark.parametrize(
    "template",
    [
        "{text}",
        "{{ event.__class__.__mro__ }}",
        "{0.__globals__}",
        "{% for i in range(9) %}x{% endfor %}",
        "{first_name!r}",
        "{first_name:>99999}",
        "{}",
        "a { b",
        "a } b",
        "{first_name|{name}}",
    ],
)
def test_braces_that_name_nothing_are_refused_when_saved(template: str) -> None:
    with pytest.raises(templates.TemplateInvalid, match=r"brace|braces"):
        templates.check(template)


def test_percent_signs_are_only_text() -> None:
    templates.check("100 %(x)s %s")

    assert templates.render("100 %(x)s %s", "Ana") == "100 %(x)s %s"


@given(st.text())
def test_a_persons_name_is_never_read_as_a_template(name: str) -> None:
    rendered = templates.render("<{name}>", "{first_name} " + name)

    assert rendered.startswith("<{first_name}")
    assert len(rendered) <= templates.NAME_LENGTH + 2


def test_a_name_cannot_bring_control_characters_in() -> None:
    assert templates.render("Hi {name}!", "A\u202en\na\x1b[1m") == "Hi A n a [1m!"


@given(st.text())
def test_every_template_that_is_accepted_renders(template: str) -> None:
    try:
        templates.check(template)
    except templates.TemplateInvalid:
        return

    assert "{" not in templates.render(template, "Ana")
