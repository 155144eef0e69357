// What is shown, and what the keys do.
const REACTION = 120; // ms; a key that comes sooner after an image was not meant for it
let now = null; // the state that is shown
let ready = false; // whether the sample has been on the screen long enough to be judged
const times = []; // of the answers of this sitting, ms

const mark = (state) => { document.body.dataset.state = state; };

const pace = () => {
  const gaps = times.slice(-21).map((time, n, all) => (n ? time - all[n - 1] : Infinity)).slice(1).filter((gap) => gap < 120000).sort((a, b) => a - b);
  if (gaps.length < 3) return "";
  const seconds = gaps[gaps.length >> 1] / 1000;
  const left = Math.ceil((seconds * (now.total - now.done)) / 60);
  return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s each${now.item ? `, about ${left} min left` : ""}`;
};

const showHead = (state) => {
  at("bar").max = state.total || 1;
  at("bar").value = state.done;
  const count = `${state.done} of ${state.total} done`;
  at("count").firstElementChild.textContent = count;
  at("count").setAttribute("aria-label", `${count}. Your answers`);
  at("pace").textContent = pace();
};

const showEnd = (state) => {
  const instead = at("instead");
  at("image").hidden = true;
  instead.hidden = false;
  instead.textContent = state.waiting
    ? `${state.waiting === 1 ? "The last sample is" : `The last ${state.waiting} samples are`} on other screens.\nThis page looks again by itself.`
    : `All ${state.total} samples are answered. Thank you!\n${data.items ? "Now download the answers and send the file back." : "You may close this page."}`;
  mark(state.waiting ? "waiting" : "done");
  if (!state.waiting) (data.items ? at("download") : instead).focus();
  if (state.waiting) setTimeout(() => { if (now === state) act(() => place.next()); }, 4000);
};

const showSample = async (state) => {
  const {item, earlier} = state;
  const instead = at("instead");
  at("image").hidden = !item.image;
  instead.hidden = Boolean(item.image);
  if (!item.image) {
    instead.textContent = `There is no image: this is a sample of features alone, and has only its id.\n\n${item.id}`;
    return;
  }
  try {
    await showPicture(item.image, `The sample to label, number ${earlier ? item.key + 1 : state.done + 1}`);
  } catch {
    at("image").hidden = true;
    instead.hidden = false;
    instead.textContent = "This image cannot be shown.";
  }
};

const show = async (state, saved = "") => {
  now = state;
  ready = false;
  mark("busy");
  trouble(data.items && store.forgets ? "This browser keeps nothing: download your answers before you close the page." : "");
  showHead(state);
  const {item, earlier} = state;
  at("instead").classList.toggle("end", !item);
  for (const id of ["classes", "skip", "unsure", "bad_sample"]) at(id).hidden = !item;
  at("zoom").hidden = !item?.image;
  at("find").hidden = !item || (buttons.length <= MANY && !data.notes);
  at("hint").hidden = !item || !data.suggests;
  at("keep").hidden = !earlier;
  at("caption").textContent = item ? [item.id, item.given ? `given label: ${item.given}` : ""].filter(Boolean).join(" · ") : "";
  const asked = earlier
    ? `You answered ${said(earlier)}. Answer again to change it.`
    : item ? `Now sample ${state.done + 1} of ${state.total}.` : "";
  say([saved, state.said, asked].filter(Boolean).join(" "));
  buttons.forEach((button, label) => button.classList.toggle("earlier", earlier?.label === data.classes[label]));
  for (const status of Object.keys(WORDS)) at(status).classList.toggle("earlier", earlier?.status === status);
  if (!item) {
    showEnd(state);
    return;
  }
  await showSample(state);
  if (now !== state) return;
  fetchAhead(state.ahead ?? []);
  await pause(REACTION);
  if (now !== state) return;
  ready = true;
  mark("ready");
};

let acting = false;
const act = async (call, saved = "") => {
  if (acting) return;
  acting = true;
  try {
    const state = await call();
    if (saved) times.push(performance.now());
    await show(state, state.refused ? "" : saved);
  } catch (error) {
    say("");
    trouble(error.message);
    mark("trouble");
    ready = Boolean(now && now.item);
  } finally {
    acting = false;
    for (const button of document.querySelectorAll(".pressed")) button.classList.remove("pressed");
  }
};

const answer = (button, status, label = null) => {
  if (!ready || acting) return;
  (label === null ? button : buttons[label]).classList.add("pressed");
  const {item, earlier} = now;
  act(() => place.answer(item.key, status, label, earlier), `Saved: ${label === null ? WORDS[status] : data.classes[label]}.`);
  stopSearch();
};

const undo = () => {
  const seen = now && now.done;
  act(() => place.undo()).then(() => { if (now && now.done < seen) times.pop(); });
};

const suggest = async () => {
  if (!ready || acting) return;
  const key = now.item.key;
  try {
    const label = await place.suggest(key);
    if (now.item && now.item.key === key) say(label === null ? "The model has no suggestion for this sample." : `The model suggests: ${label}`);
  } catch (error) {
    trouble(error.message);
  }
};

const press = (id) => () => at(id).click();
const SHORT = {
  ".": press("unsure"), ",": press("unsure"), "-": press("bad_sample"), "+": press("skip"), ArrowRight: press("skip"), "?": press("hint"), "*": press("hint"),
  ArrowLeft: press("undo"), Backspace: press("undo"),
};
if (buttons.length > MANY) SHORT["/"] = () => search.focus();
if (data.notes) SHORT["!"] = press("about");
const PICTURE = {
  ArrowUp: press("larger"), ArrowDown: press("smaller"),
  Escape: () => at(zoom.isWhole() && !at("keep").hidden ? "keep" : "whole").click(),
};
const PAN = {ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60]};
for (const status of Object.keys(WORDS)) at(status).onclick = () => answer(at(status), status);
at("undo").onclick = undo;
at("hint").onclick = suggest;
at("keys").onchange = () => store.setItem("metaselect:keys", at("keys").checked ? "on" : "off");
at("keys").checked = store.getItem("metaselect:keys") !== "off";
at("lookup").hidden = buttons.length <= MANY;
at("about").hidden = !data.notes;
if (buttons.length <= MANY) at("about").lastElementChild.textContent = "About the classes"; // there is room for it

const action = (event) => {
  if (event.shiftKey && PAN[event.key]) return () => zoom.move(...PAN[event.key]);
  if (PICTURE[event.key]) return PICTURE[event.key];
  if (!at("keys").checked || event.repeat) return null;
  const label = KEYS.indexOf(event.key.toLowerCase());
  if (label >= 0) return () => buttons[label].click();
  if (SHORT[event.key]) return SHORT[event.key];
  return event.key.length === 1 && event.key !== " " ? () => say(`The key ${event.key} is not a class here.`) : null;
};

addEventListener("keydown", (event) => {
  const typing = event.target instanceof HTMLInputElement && event.target.type !== "checkbox";
  if (typing || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const does = action(event);
  if (!does) return;
  event.preventDefault();
  does();
});

const greet = () => {
  at("who").firstElementChild.textContent = who() || "Your name";
  at("who").setAttribute("aria-label", `You are ${who()}. Change the name`);
};
const begin = () => {
  greet();
  act(() => place.next());
};
at("who").onclick = () => {
  at("name").value = who();
  at("ask").showModal();
  at("name").select();
};
at("ask").querySelector("form").onsubmit = (event) => {
  event.preventDefault();
  const name = at("name").value.trim();
  if (!name) return;
  store.setItem("metaselect:annotator", name);
  at("ask").close();
  if (now) greet(); else begin();
};
at("ask").onclose = () => { if (!now && !who()) at("ask").showModal(); };

const place = data.items ? kept() : served();
if (who()) begin(); else at("who").onclick();
