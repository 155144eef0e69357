// The picture: fetched before its turn, shown, zoomed and moved.
const TINY = 96; // pixels; smaller images show their pixels instead of a blur
const LARGEST = 32; // times; an image of 8 pixels that fills the screen is not recognised any more
const CLOSEST = 8; // CSS pixels for a pixel of the image, or times as large as it is shown at first; whichever is more
const STEP = 1.5; // of the buttons and the keys
const stage = at("stage");

const load = (address) => {
  const image = new Image();
  image.draggable = false;
  image.src = address;
  return image;
};

// The elements that fetched the next pictures, by address: shown as they are, so that none is fetched twice.
const ahead = new Map();
const fetchAhead = (addresses) => {
  for (const address of ahead.keys()) if (!addresses.includes(address)) ahead.delete(address);
  for (const address of addresses) {
    if (ahead.has(address)) continue;
    const image = load(address);
    image.onerror = () => ahead.delete(address);
    ahead.set(address, image);
  }
};

// Put a picture in the place of the last one; resolves when it can be seen, and rejects where it cannot.
const showPicture = async (address, alt) => {
  const image = ahead.get(address) ?? load(address);
  ahead.delete(address);
  image.id = "image";
  image.alt = alt;
  at("image").replaceWith(image);
  zoom.reset();
  await image.decode();
  const side = Math.max(image.naturalWidth, image.naturalHeight);
  image.classList.toggle("tiny", side <= TINY);
  image.style.maxWidth = image.style.maxHeight = side <= TINY ? `min(${LARGEST * side}px, 36rem)` : "";
  zoom.reset();
};

const zoom = (() => {
  let scale = 1;
  let x = 0; // of the picture's centre from the middle of the stage, CSS pixels
  let y = 0;
  const limit = (value, most) => Math.min(Math.max(value, -most), most);
  // CSS pixels for one pixel of the image while all of it is shown.
  const fit = (image) => Math.min(image.clientWidth / image.naturalWidth, image.clientHeight / image.naturalHeight);
  const draw = () => {
    const image = at("image");
    const size = image.naturalWidth ? scale * fit(image) : 0;
    x = limit(x, Math.max(0, (image.naturalWidth * size - stage.clientWidth) / 2));
    y = limit(y, Math.max(0, (image.naturalHeight * size - stage.clientHeight) / 2));
    image.style.transform = scale === 1 ? "" : `translate(${x}px, ${y}px) scale(${scale})`;
    stage.classList.toggle("zoomed", scale > 1);
    at("whole").firstElementChild.textContent = `${Math.round(100 * scale)}%`;
  };
  const by = (factor, point = {x: 0, y: 0}) => {
    const image = at("image");
    if (image.hidden || !image.naturalWidth) return;
    const before = scale;
    scale = Math.min(Math.max(1, scale * factor), Math.max(CLOSEST, CLOSEST / fit(image)));
    // What is under the point stays under it.
    x = point.x - (point.x - x) * scale / before;
    y = point.y - (point.y - y) * scale / before;
    draw();
  };
  const move = (dx, dy) => { x += dx; y += dy; draw(); };
  const reset = () => { scale = 1; x = y = 0; draw(); };
  // As large as its pixels, around a point; or all of it again.
  const toggle = (point) => {
    const once = Math.max(2.5, 1 / fit(at("image")));
    if (scale > 1) reset(); else by(once, point);
  };
  return {by, move, draw, reset, toggle, isWhole: () => scale === 1};
})();

const fromMiddle = (event) => {
  const box = stage.getBoundingClientRect();
  return {x: event.clientX - box.left - box.width / 2, y: event.clientY - box.top - box.height / 2};
};

stage.addEventListener("wheel", (event) => {
  const factor = Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : event.ctrlKey ? 0.01 : 0.002));
  if (zoom.isWhole() && factor <= 1 && !event.ctrlKey) return; // a narrow page scrolls
  event.preventDefault();
  zoom.by(factor, fromMiddle(event));
}, {passive: false});

const fingers = new Map(); // pointers that are down on the stage, where they are
let tapped = null; // the end of the last tap, to tell a double one
stage.onpointerdown = (event) => {
  if (event.button) return;
  stage.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, {...fromMiddle(event), start: fromMiddle(event)});
};
stage.onpointermove = (event) => {
  const finger = fingers.get(event.pointerId);
  if (!finger) return;
  const [other] = [...fingers.values()].filter((each) => each !== finger);
  const {x, y} = fromMiddle(event);
  if (other) {
    const spread = (point) => Math.hypot(point.x - other.x, point.y - other.y) || 1;
    zoom.by(spread({x, y}) / spread(finger), other);
  } else if (!zoom.isWhole()) {
    zoom.move(x - finger.x, y - finger.y);
  }
  Object.assign(finger, {x, y});
};
stage.onpointerup = (event) => {
  const finger = fingers.get(event.pointerId);
  fingers.delete(event.pointerId);
  if (!finger) return;
  const near = (point) => Math.hypot(point.x - finger.x, point.y - finger.y) < 24;
  if (fingers.size || !near(finger.start)) {
    tapped = null;
  } else if (tapped && near(tapped) && event.timeStamp - tapped.time < 400) {
    tapped = null;
    if (!at("image").hidden) zoom.toggle(finger);
  } else {
    tapped = {...finger, time: event.timeStamp};
  }
};
stage.onpointercancel = (event) => fingers.delete(event.pointerId);
addEventListener("resize", zoom.draw);
at("larger").onclick = () => zoom.by(STEP);
at("smaller").onclick = () => zoom.by(1 / STEP);
at("whole").onclick = zoom.reset;
