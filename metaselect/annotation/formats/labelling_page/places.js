"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);

// What remembers: this tab where a server keeps the answers, else the browser, else only this page.
const store = (() => {
  const held = new Map();
  try {
    const real = data.items ? localStorage : sessionStorage;
    real.setItem("metaselect:probe", "1");
    real.removeItem("metaselect:probe");
    return real;
  } catch {
    return {
      forgets: true,
      getItem: (key) => held.get(key) ?? null,
      setItem: (key, value) => held.set(key, value),
      removeItem: (key) => held.delete(key),
    };
  }
})();

const who = () => store.getItem("metaselect:annotator") || data.annotator;
const say = (text) => { at("said").textContent = text; };
const trouble = (text) => { at("trouble").textContent = text; };
const pause = (ms) => new Promise((wake) => setTimeout(wake, ms));

// The two places that answers go to have the same verbs. `answered` gives the person's answers, the last first; all
// others but `suggest` give back the state to show.
const served = () => {
  const session = store.getItem("metaselect:session") || Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
  store.setItem("metaselect:session", session);
  const post = (verb, body) => fetch(verb, {
    method: "POST", keepalive: verb === "release", headers: {"Content-Type": "application/json"},
    body: JSON.stringify({session, annotator: who(), ...body}),
  });
  const ask = async (verb, body = {}) => {
    for (;;) {
      const reply = await post(verb, body).catch(() => {
        throw new Error("The server does not answer, so nothing was saved. Start metaselect annotate serve again and open the address that it prints: it goes on with this sample.");
      });
      const found = await reply.json().catch(() => ({error: `The server refuses (${reply.status}). Open the address that it printed.`}));
      if (reply.ok) return found;
      if (reply.status !== 503) throw new Error(found.error);
      trouble(`${found.error} Not saved yet; trying again.`);
      await pause(1500);
    }
  };
  addEventListener("pagehide", () => { post("release", {}).catch(() => {}); });
  return {
    next: () => ask("next"),
    answer: (key, status, label, replaces) => ask("answer", {key, status, label, replaces}),
    undo: () => ask("undo"),
    answered: async () => (await ask("answered")).answers,
    revisit: (key) => ask("revisit", {key}),
    suggest: async (key) => (await ask("suggest", {key})).label,
  };
};

const kept = () => {
  const place = (key) => `metaselect:${data.form}:${key}`;
  const read = (key) => JSON.parse(store.getItem(place(key)));
  const all = () => data.items.map((_, key) => read(key));
  const shown = (answer, key) => ({
    key, id: data.items[key].id, thumbnail: data.items[key].image,
    status: answer.status, label: answer.label === null ? "" : data.classes[answer.label],
  });
  const state = (said = "", wanted = null) => {
    const answers = all();
    const key = wanted ?? answers.findIndex((answer) => !answer);
    const item = key < 0 ? null : {key, ...data.items[key]};
    return {item, said, total: answers.length, done: answers.filter(Boolean).length, waiting: 0};
  };
  at("download").hidden = false;
  at("download").onclick = () => download(all());
  return {
    next: async () => state(),
    answer: async (key, status, label, replaces) => {
      const answers = all();
      const known = answers[key] && shown(answers[key], key);
      if (known && !(replaces && known.status === replaces.status && known.label === replaces.label)) {
        return {...state("That sample was answered in another tab, so this answer was not taken."), refused: true};
      }
      if (known && status === known.status && (label === null ? "" : data.classes[label]) === known.label) return state();
      const turn = 1 + Math.max(0, ...answers.map((answer) => (answer ? answer.turn : 0)));
      store.setItem(place(key), JSON.stringify({status, label, annotator: who(), turn}));
      return state();
    },
    undo: async () => {
      const answers = all();
      const last = answers.reduce((best, answer, key) => (answer && (best < 0 || answer.turn > answers[best].turn) ? key : best), -1);
      if (last < 0) return state("There is nothing to undo.");
      store.removeItem(place(last));
      return state("Taken back; answer again.", last);
    },
    answered: async () => {
      const answers = all();
      return answers.map((_, key) => key).filter((key) => answers[key]).sort((one, other) => answers[other].turn - answers[one].turn)
        .map((key) => shown(answers[key], key));
    },
    revisit: async (key) => {
      const answer = read(key);
      return answer ? {...state("", key), earlier: shown(answer, key)} : state("You have no answer for that sample any more.");
    },
    suggest: async (key) => data.items[key].suggestion ?? null,
  };
};

// A spreadsheet would run a cell that starts so; `annotate import` takes the apostrophe off again.
const guard = (cell) => (/^[=+\-@\t\r']/.test(cell) ? `'${cell}` : cell);
const quote = (cell) => `"${cell.replaceAll('"', '""')}"`;

const download = (answers) => {
  const header = ["batch_id", "sample_id", "clean_label", "annotator", "status", "note"];
  const rows = answers.map((answer, key) => {
    const {batch, id} = data.items[key];
    const label = answer && answer.label !== null ? data.classes[answer.label] : "";
    return [batch, id, label, answer ? answer.annotator : "", answer ? answer.status : "", ""];
  });
  const text = [header, ...rows].map((row) => row.map((cell) => quote(guard(cell))).join(",") + "\n").join("");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "text/csv"}));
  link.download = `${data.batch}-answers.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  say("Downloaded. Send the file back; it can be imported as it is, also half done.");
};

