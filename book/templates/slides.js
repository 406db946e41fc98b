// Keys turn the slides, and the address names the one on the screen. Without this script the page scrolls.
const slides = [...document.querySelectorAll("section")];
const forward = ["ArrowRight", "ArrowDown", "PageDown"], back = ["ArrowLeft", "ArrowUp", "PageUp"];
let at = 0, pause;

function go(number) {
  at = Math.max(0, Math.min(slides.length - 1, number));
  slides[at].scrollIntoView();
  slides[at].focus({ preventScroll: true }); // so that a screen reader says the new title
}

function settle() { // after scrolling: the slide nearest to the top
  const away = slides.map((slide) => Math.abs(slide.getBoundingClientRect().top));
  at = away.indexOf(Math.min(...away));
  if (location.hash !== `#${at + 1}`) history.replaceState(null, "", `#${at + 1}`);
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const space = event.key === " " && event.target.tagName !== "A";
  const to = forward.includes(event.key) || (space && !event.shiftKey) ? at + 1
    : back.includes(event.key) || space ? at - 1
    : { Home: 0, End: slides.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  go(to);
});
addEventListener("scroll", () => { clearTimeout(pause); pause = setTimeout(settle, 120); }, { passive: true });
addEventListener("load", settle);
