"""The doctor behind a button: nothing of the machine before it is pressed, the report or the failure after."""

import pytest

from lab.install import button


@pytest.fixture
def shown():
    return button.doctor_button()


def test_before_it_is_pressed_nothing_of_the_machine_is_stored(shown):
    assert shown.report.value == ""
    bundle = shown._repr_mimebundle_()
    assert bundle["text/plain"] == repr(shown) == repr(button.doctor_button())


def test_pressed_it_shows_what_the_doctor_prints(shown, monkeypatch):
    monkeypatch.setattr(button, "doctor", lambda: print("torch <2.13>"))
    shown.button.click()
    assert shown.report.value == "<pre>torch &lt;2.13&gt;\n</pre>"
    assert not shown.button.disabled


def test_a_doctor_that_fails_is_shown(shown, monkeypatch):
    def fails():
        raise OSError("no disk")

    monkeypatch.setattr(button, "doctor", fails)
    shown.button.click()
    assert "OSError: no disk" in shown.report.value
    assert not shown.button.disabled
