"""Pages that follow a hand: a few controls, one picture, and a line that says what is shown. Turn one knob, see what it does.

The picture is always that of the last values, however fast they came. On a stored page (GitHub, the book, the checks of the
notebooks) it stands alone; `look` does there, in code, what a hand does to the controls.
"""

import asyncio
import html
import io
from collections.abc import Callable, Sequence
from threading import Lock
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from sprites_lab import lab
from sprites_lab.errors import LabError
from sprites_lab.figures import Figure

if TYPE_CHECKING:
    import ipywidgets

SETTLE = 0.01  # seconds in which changes that queued up while a picture was drawn come in, so that they become one
SHARP = "<style>.sprites-lab-picture { image-rendering: pixelated; }</style>"


class Knob(NamedTuple):
    """A slider from `low` to `high`, over whole numbers if all of these are whole; `about` says what it does."""

    low: float
    high: float
    step: float
    start: float
    about: str

    def whole(self) -> bool:
        """Whether it goes over whole numbers."""
        return all(isinstance(number, int) for number in self[:4])

    def check(self, name: str, value: Any) -> None:
        """LabError for a value that the slider does not reach."""
        if not isinstance(value, int if self.whole() else int | float) or not self.low <= value <= self.high:
            raise LabError(f"{name} = {value!r}, but its knob goes {'in whole numbers ' if self.whole() else ''}from {self.low} to {self.high}")


class Choice(NamedTuple):
    """One of some options: a menu of names, or a slider over numbers; `about` says what it does."""

    options: Sequence[Any]
    start: Any
    about: str

    def check(self, name: str, value: Any) -> None:
        """LabError for a value that is not on offer."""
        if value not in self.options:
            raise LabError(f"{name} = {value!r}, but it is one of {', '.join(map(repr, self.options))}")


Control = Knob | Choice


class Panel:
    """Controls, by the names of draw's arguments, over the picture draw(**values), which is kept at their values.

    An error of the first drawing is the caller's; that of a later one is told in the line below, and the last picture stays.
    """

    def __init__(self, draw: Callable[..., Figure], caption: str, controls: dict[str, Control]):
        import ipywidgets as W

        self.draw, self.drawing, self.waiting, self.controls = draw, Lock(), set(), controls
        self.widgets = {name: widget(name, control) for name, control in controls.items()}
        self.image, self.status = W.Image(format="png"), W.HTML()
        self.shown = self.values()
        self.tell(self.show())
        width, height = Image.open(io.BytesIO(self.figure.data)).size  # of every picture: the page must not jump
        self.image.layout = W.Layout(width=f"{width}px", height=f"{height}px", flex="none", align_self="flex-start", object_fit="contain", object_position="left top")
        self.image.add_class("sprites-lab-picture")
        knobs = W.Box(list(self.widgets.values()), layout=W.Layout(flex_flow="row wrap", max_width="760px"))
        self.page = W.VBox([W.HTML(SHARP + html.escape(caption, quote=False)), knobs, self.image, self.status])
        for control in self.widgets.values():
            control.observe(self.changed, "value")

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> Any:
        """What IPython asks for: the controls and the picture, alive; on a stored page the picture alone."""
        return (self.figure if lab.static() else self.page)._repr_mimebundle_(include=include, exclude=exclude)

    async def look(self, **values: Any) -> Figure:
        """The picture that these values bring: await panel.look(seed=3). The controls move as under a hand, and then back.

        LabError for a name that is no control here, for a value out of its range, and for a picture that does not follow.
        """
        for name, value in values.items():
            if name not in self.controls:
                raise LabError(f"there is no knob '{name}' here; there are: {', '.join(self.controls)}")
            self.controls[name].check(name, value)
        before = self.values()
        try:
            await self.move(values)
            if self.shown != self.values() or self.failed:
                raise LabError(self.failed or "the knobs moved and the picture did not follow; draw it again by running its cell")
            return self.figure
        finally:
            await self.move(before)

    async def move(self, values: dict[str, Any]) -> None:
        """Set controls and wait until the picture is drawn."""
        for name, value in values.items():
            self.widgets[name].value = value
        while self.waiting:
            await asyncio.sleep(SETTLE)

    def values(self) -> dict[str, Any]:
        """The values of all controls, now."""
        return {name: control.value for name, control in self.widgets.items()}

    def changed(self, change: object) -> None:
        """Redraw in a moment, once the changes that wait behind this one are in; at once where no loop runs that could wait."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.redraw()
            return
        if loop not in self.waiting:  # JupyterLab may serve controls in a thread beside that of the cells
            self.waiting.add(loop)
            loop.call_later(SETTLE, self.redraw, loop)

    def redraw(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Show the picture of the values that the controls have now, unless it is the one that was drawn last."""
        self.waiting.discard(loop)  # before the values are read: a change from here on asks again
        with self.drawing:  # of two threads the one with the newer values comes last
            if (values := self.values()) == self.shown:
                return
            self.shown = values
            try:
                self.tell(self.show())
            except Exception as error:  # the traceback of a callback would be lost
                self.failed = str(error) if isinstance(error, LabError) else f"{type(error).__name__}: {error}"
                self.tell(self.failed)

    def show(self) -> str:
        """Draw, hand over the picture, and say how long that took."""
        began = perf_counter()
        self.figure, self.failed = self.draw(**self.shown), ""
        self.image.value = self.figure.data
        return f"{1000 * (perf_counter() - began):.0f} ms"

    def tell(self, said: str) -> None:
        """Put the values that were asked for, what came of them, and what is shown into the line below, for the eye and for a screen reader.

        (ipywidgets' Image has no text alternative, and a tooltip breaks it.)
        """
        told = ", ".join(f"{name}={value:.2f}" if isinstance(value, float) else f"{name}={value}" for name, value in self.shown.items())
        lines = (html.escape(line, quote=False) for line in (f"{told}: {said}", self.figure.alt))
        self.status.value = f'<span role="status" aria-live="polite">{"<br>".join(lines)}</span>'


def widget(name: str, control: Control) -> "ipywidgets.ValueWidget":
    """The slider or the menu of a control."""
    import ipywidgets as W

    looks = dict(description=name, tooltip=control.about, style={"description_width": "90px"}, layout=W.Layout(width="340px"))
    if isinstance(control, Knob):
        kind = W.IntSlider if control.whole() else W.FloatSlider
        return kind(control.start, min=control.low, max=control.high, step=control.step, **looks)
    kind = W.Dropdown if isinstance(control.start, str) else W.SelectionSlider
    return kind(options=list(control.options), value=control.start, **looks)
