"""`lab.doctor()` behind a button: its report differs from machine to machine, so a lesson shows it only when asked."""

import contextlib
import html
import io
from typing import Any

import ipywidgets as widgets

from lab.install.checkup import doctor
from lab.panel.css import head


class DoctorButton(widgets.VBox):
    """Press the button: the report appears below it. Works on a page without code, too."""

    def __init__(self) -> None:
        self.button = widgets.Button(
            description="Check this machine",
            tooltip="Runs lab.doctor(): what is installed, what imports, what is wrong",
            icon="stethoscope",
            layout=widgets.Layout(width="16em"),
        )
        self.report = widgets.HTML()
        self.button.on_click(self.press)
        super().__init__([head(), self.button, self.report])
        self.add_class("fmlab-live")

    def __repr__(self) -> str:
        return "A button that runs lab.doctor() (it needs a running kernel)"

    def press(self, _: Any = None) -> None:
        """Run the doctor and show what it prints."""
        self.button.disabled = True
        self.report.value = "<p>Checking, this takes a few seconds ...</p>"
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                doctor()
        except Exception as error:  # the doctor's own failure is also news
            print(f"{type(error).__name__}: {error}", file=printed)
        finally:
            self.report.value = f"<pre>{html.escape(printed.getvalue())}</pre>"
            self.button.disabled = False


def doctor_button() -> DoctorButton:
    """The button, to be shown by the notebook."""
    return DoctorButton()
