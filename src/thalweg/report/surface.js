"use strict";
// A surface on a square grid that is turned by dragging or by the arrow keys: a height field, drawn from back to front.
for (const box of document.querySelectorAll("[data-surface]")) {
  const { heights, low, high, start, middle } = JSON.parse(box.dataset.surface);
  const canvas = box.querySelector("canvas"), pen = canvas.getContext("2d");
  const n = heights.length, last = n - 1, BANDS = 10, HOME = [-0.55, 0.6];
  let [turn, tilt] = HOME, waiting = false, opening = null;

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const mix = (a, b, t) => a.map((one, i) => one + (b[i] - one) * t);
  const at = (u, v) => { // height between the grid's points; NaN beside a missing one
    const i = Math.min(Math.floor(u), last - 1), j = Math.min(Math.floor(v), last - 1), p = u - i, q = v - j;
    const h = [[i, j], [i + 1, j], [i, j + 1], [i + 1, j + 1]].map(([k, l]) => heights[k][l] ?? NaN);
    return Math.min(1, (h[0] * (1 - p) + h[1] * p) * (1 - q) + (h[2] * (1 - p) + h[3] * p) * q);
  };

  function draw() {
    waiting = false;
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width) return;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const deep = rgb(css("series-1")), paper = rgb(css("paper")), dark = paper[0] < 128, size = Math.min(width, height * 1.25) * 0.62;
    const c = Math.cos(turn), s = Math.sin(turn), ct = Math.cos(tilt), st = Math.sin(tilt);
    const eye = (u, v, h) => { // grid -> [x, y on the canvas, nearness]
      const x = u / last - 0.5, y = v / last - 0.5, near = x * s + y * c;
      return [width / 2 + size * (x * c - y * s), height * 0.52 + size * (near * st - (h - 0.4) * 0.62 * ct), near];
    };
    const line = (from, to, colour, thick) => {
      pen.strokeStyle = colour; pen.lineWidth = thick;
      pen.beginPath(); pen.moveTo(from[0], from[1]); pen.lineTo(to[0], to[1]); pen.stroke();
    };
    const say = (text, [x, y], colour, bold = "") => {
      pen.font = `${bold} 13px system-ui, sans-serif`; pen.textAlign = "center"; pen.textBaseline = "middle";
      pen.lineWidth = 3; pen.strokeStyle = css("paper"); pen.strokeText(text, x, y);
      pen.fillStyle = colour; pen.fillText(text, x, y);
    };

    const corners = [[0, 0], [last, 0], [last, last], [0, last]];
    corners.forEach((one, i) => line(eye(...one, 0), eye(...corners[(i + 1) % 4], 0), css("muted"), 1));
    const faces = [], cut = 3; // each cell in 3 x 3, so that bands are smooth
    for (let i = 0; i < last * cut; i++) for (let j = 0; j < last * cut; j++) {
      const [u, v, w, z] = [i / cut, j / cut, (i + 1) / cut, (j + 1) / cut];
      const h = [at(u, v), at(w, v), at(w, z), at(u, z)], mean = (h[0] + h[1] + h[2] + h[3]) / 4;
      if (!Number.isFinite(mean)) continue;
      const dx = (h[1] + h[2] - h[0] - h[3]) / 2 * last * cut, dy = (h[2] + h[3] - h[0] - h[1]) / 2 * last * cut;
      // a lamp at the upper left, which turns with the eye
      const light = (1.1 - (dx * c - dy * s) * -0.45 - (dx * s + dy * c) * -0.35) / Math.sqrt(1 + dx * dx + dy * dy) / 1.25;
      const places = [eye(u, v, h[0]), eye(w, v, h[1]), eye(w, z, h[2]), eye(u, z, h[3])];
      faces.push([places[0][2] + places[2][2], places, Math.floor(Math.min(mean, 0.999) * BANDS) / (BANDS - 1), light]);
    }
    faces.sort((a, b) => a[0] - b[0]);
    for (const [, places, band, light] of faces) {
      const colour = mix(mix(deep, paper, dark ? 0.8 * band : 0.88 * band), [0, 0, 0], Math.min(0.4, Math.max(0, 0.42 - light * 0.5)));
      pen.fillStyle = pen.strokeStyle = `rgb(${colour.map(Math.round)})`;
      pen.lineWidth = 0.7;
      pen.beginPath();
      places.forEach(([x, y], k) => (k ? pen.lineTo(x, y) : pen.moveTo(x, y)));
      pen.closePath(); pen.fill(); pen.stroke();
    }

    const mark = (u, text) => {
      const h = at(u, middle), place = eye(u, middle, Number.isFinite(h) ? h : 1);
      pen.beginPath(); pen.arc(place[0], place[1], 5, 0, 7);
      pen.fillStyle = css("paper"); pen.fill(); pen.lineWidth = 2; pen.strokeStyle = css("ink"); pen.stroke();
      say(text, [place[0], place[1] - 16], css("ink"), "600");
    };
    if (start !== null) mark(start, "start");
    mark(middle, "kept");
    // the scale of heights stands at the leftmost corner
    const left = corners.reduce((a, b) => (eye(...a, 0)[0] < eye(...b, 0)[0] ? a : b));
    const foot = eye(...left, 0), head = eye(...left, 1);
    line(foot, head, css("muted"), 1);
    say(low, [Math.max(foot[0], 26), foot[1] + 12], css("muted"));
    say(high, [Math.max(head[0], 26), head[1] - 10], css("muted"));
  }
  const later = () => { if (!waiting) { waiting = true; requestAnimationFrame(draw); } };
  const move = (right, up) => {
    cancelAnimationFrame(opening);
    turn += right;
    tilt = Math.min(Math.max(tilt + up, 0.12), 1.5);
    later();
  };

  let held = null;
  canvas.addEventListener("pointerdown", (event) => { held = [event.clientX, event.clientY]; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", (event) => {
    if (!held) return;
    move((held[0] - event.clientX) * -0.01, (event.clientY - held[1]) * 0.008);
    held = [event.clientX, event.clientY];
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { held = null; });
  canvas.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: [-0.12, 0], ArrowRight: [0.12, 0], ArrowUp: [0, 0.08], ArrowDown: [0, -0.08] }[event.key];
    if (by) move(...by);
    else if (event.key === "Home") { [turn, tilt] = HOME; move(0, 0); }
    else return;
    event.preventDefault();
  });

  box.hidden = false;
  new ResizeObserver(later).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", later);
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) {
    // once, when it comes into view: a short turn that shows that it has a depth
    const seen = new IntersectionObserver(([entry]) => {
      if (!entry.isIntersecting) return;
      seen.disconnect();
      const began = performance.now(), step = (now) => {
        const left = Math.max(0, 1 - (now - began) / 1600);
        turn = HOME[0] - 0.7 * left * left;
        draw();
        if (left) opening = requestAnimationFrame(step);
      };
      opening = requestAnimationFrame(step);
    }, { threshold: 0.6 });
    seen.observe(canvas);
  }
}
