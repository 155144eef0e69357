// The person's earlier answers: a list from which each can be shown again and changed.
const WORDS = {skip: "skipped", unsure: "unsure", bad_sample: "unusable"};
const PORTION = 100; // answers that the list shows at once; one of ten thousand would take seconds to lay out
const said = (answer) => WORDS[answer.status] ?? answer.label;
let rest = []; // answers that the list does not show yet

const answerRow = (answer) => {
  const row = make("li");
  const button = make("button", "", row);
  button.type = "button";
  if (answer.thumbnail) {
    const picture = make("img", "", button);
    picture.loading = "lazy";
    picture.alt = "";
    picture.src = answer.thumbnail;
  }
  const text = make("span", "", button);
  make("b", said(answer), text);
  make("small", ` ${answer.key + 1}: ${answer.id}`, text);
  button.onclick = () => {
    at("answers").close();
    act(() => place.revisit(answer.key));
  };
  return row;
};

const showOlder = () => {
  at("earlier").append(...rest.splice(0, PORTION).map(answerRow));
  at("older").hidden = !rest.length;
};

const listAnswers = async () => {
  if (!now) return;
  try {
    rest = await place.answered();
  } catch (error) {
    trouble(error.message);
    return;
  }
  const none = rest.length ? "" : " You have no answers yet.";
  at("progress").textContent = `${now.done} of ${now.total} samples are answered.${none} ${pace()}`;
  at("earlier").replaceChildren();
  showOlder();
  at("answers").showModal();
};

at("count").onclick = listAnswers;
at("older").onclick = showOlder;
at("answers").onclose = () => at("earlier").replaceChildren();
at("keep").onclick = () => act(() => place.next());
