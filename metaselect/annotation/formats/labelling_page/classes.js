// The classes: a button and a key each, a search where there are many, and what was noted about them.
const NAMES = data.classes.map((name) => name.toLowerCase());
// What a class is called is never another one's key, or 3 would answer "2"; the others have what is left, in order.
const isOwn = (name) => /^[0-9a-z]$/.test(name) && NAMES.indexOf(name) === NAMES.lastIndexOf(name);
const LEFT = [..."123456789abcdefghijklmnopqrstuvwxyz"].filter((key) => !NAMES.includes(key));
const KEYS = NAMES.map((name) => isOwn(name) ? name : LEFT.shift() ?? null);
const MANY = 9; // classes; more have a search
const FOUND = 6; // classes that the search offers at once

const make = (tag, text = "", where = null) => {
  const element = document.createElement(tag);
  element.textContent = text;
  if (where) where.append(element);
  return element;
};
const keyCap = (label) => {
  const key = make("kbd", KEYS[label]);
  key.setAttribute("aria-hidden", "true");
  return key;
};

const classButton = (label) => {
  const button = make("button");
  button.type = "button";
  if (KEYS[label] !== null) {
    button.setAttribute("aria-keyshortcuts", KEYS[label]);
    button.append(keyCap(label));
  }
  make("span", data.classes[label], button);
  button.onclick = () => answer(button, "done", label);
  return button;
};
const buttons = data.classes.map((_, label) => classButton(label));
at("classes").append(...buttons);

// The found classes lie over the others, none of which moves meanwhile.
const search = at("search");
const found = at("found");
const plain = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
const names = data.classes.map(plain);
let matches = []; // classes that the search text may mean, the most probable first
const filter = () => {
  const wanted = plain(search.value.trim());
  const rank = (label) => (names[label] === wanted ? 0 : names[label].startsWith(wanted) ? 1 : 2);
  matches = wanted ? [...names.keys()].filter((label) => names[label].includes(wanted)).sort((one, other) => rank(one) - rank(other)) : [];
  found.replaceChildren(...matches.slice(0, FOUND).map(classButton));
  if (!wanted && !found.hidden) say("");
  found.hidden = !wanted;
  if (!wanted) return;
  const [first, last] = [found.firstElementChild, matches.length - FOUND];
  if (first) first.classList.add("first");
  make("p", !first ? "No class is called that." : last > 0 ? `${last} more: go on typing.` : "", found);
  say(first ? `Enter chooses ${data.classes[matches[0]]}.` : "No class is called that.");
};
const stopSearch = () => {
  search.value = "";
  filter();
};
search.oninput = filter;
search.onkeydown = (event) => {
  if (event.key === "Enter" && matches.length && !event.repeat) {
    found.firstElementChild.click();
  } else if (event.key === "Escape") {
    stopSearch();
    search.blur();
  } else if (event.key === "ArrowDown" && matches.length) {
    found.firstElementChild.focus();
  } else {
    return;
  }
  event.preventDefault();
};
found.onkeydown = (event) => {
  const step = {ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling"}[event.key];
  if (event.key === "Escape") stopSearch();
  if (event.key !== "Escape" && !step) return;
  const next = step && document.activeElement[step];
  (next instanceof HTMLButtonElement ? next : search).focus();
  event.preventDefault();
  event.stopPropagation();
};

// The notes, in the order of the classes; a class may have several.
const describe = () => {
  const sections = new Map();
  for (const {label, note, image} of data.notes ?? []) {
    if (!sections.has(label)) {
      const section = make("section", "", at("described"));
      const title = make("h3", "", section);
      if (KEYS[label] !== null) title.append(keyCap(label));
      make("span", data.classes[label], title);
      sections.set(label, section);
    }
    if (note) make("p", note, sections.get(label));
    if (!image) continue;
    const picture = make("img", "", sections.get(label));
    picture.loading = "lazy";
    picture.alt = `An example of ${data.classes[label]}`;
    picture.src = image;
  }
  return sections;
};
let described = null; // made when somebody looks
at("about").onclick = () => {
  const label = buttons.indexOf(document.activeElement);
  described ??= describe();
  at("notes").showModal();
  const section = described.get(label);
  if (section) section.scrollIntoView();
};
