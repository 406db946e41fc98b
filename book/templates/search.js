// The search box of the index: every word must occur in a section's heading or text. Works from a folder, offline.
const form = document.querySelector(".search"), box = form.querySelector("input");
const entries = JSON.parse(document.getElementById("entries").textContent);
const fold = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase(); // "frechet" finds "Fréchet"
for (const entry of entries) Object.assign(entry, { heading: fold(entry.title), body: fold(entry.text) });

function search() {
  const words = fold(box.value).split(/\s+/).filter(Boolean);
  const found = !words.length ? [] : entries
    .filter((entry) => words.every((word) => entry.heading.includes(word) || entry.body.includes(word)))
    .sort((a, b) => inHeading(b, words) - inHeading(a, words)); // a stable sort: otherwise in the order of the book
  form.querySelector("output").textContent = words.length ? `${found.length || "no"} section${found.length === 1 ? "" : "s"}` : "";
  form.querySelector(".hits").replaceChildren(...found.map((entry) => hit(entry, words)));
}

const inHeading = (entry, words) => words.filter((word) => entry.heading.includes(word)).length;

function hit(entry, words) {
  const first = Math.min(...words.map((word) => entry.body.indexOf(word)).filter((at) => at >= 0), entry.text.length);
  const from = first < 80 || first === entry.text.length ? 0 : entry.text.indexOf(" ", first - 70) + 1;
  const cut = entry.text.slice(from, from + 220);
  const around = (from ? "… " : "") + cut + (from + cut.length < entry.text.length ? " …" : "");
  const link = element("a", marked(entry.title, words));
  link.href = entry.page;
  return element("li", [link, ` · ${entry.chapter}`, element("p", marked(around, words))]);
}

function marked(text, words) {
  const folded = fold(text), parts = [];
  for (let from = 0; ;) {
    const next = words.map((word) => [folded.indexOf(word, from), word]).filter(([at]) => at >= 0);
    if (!next.length) return [...parts, text.slice(from)];
    const [at, word] = next.sort(([a, v], [b, w]) => a - b || w.length - v.length)[0];
    parts.push(text.slice(from, at), element("mark", [text.slice(at, (from = at + word.length))]));
  }
}

function element(name, inside) {
  const made = document.createElement(name);
  made.append(...inside);
  return made;
}

form.hidden = false;
box.value = new URLSearchParams(location.search).get("q") || box.value;
box.addEventListener("input", search);
addEventListener("pageshow", search); // coming back from a hit, the browser may have kept the words
