// Pictures of one thing at several times: without scripts a strip of them, with this one picture and a slider.
for (const figure of document.querySelectorAll("figure.frames")) {
  const frames = [...figure.querySelectorAll(".frame")];
  const slider = figure.querySelector("input");
  const told = figure.querySelector("output");
  const show = () => {
    frames.forEach((frame, i) => { frame.hidden = i !== Number(slider.value); });
    told.textContent = frames[slider.value].dataset.label;
    slider.setAttribute("aria-valuetext", told.textContent);
  };
  slider.addEventListener("input", show);
  figure.classList.add("moving");
  figure.querySelector(".slider").hidden = false;
  show();
}
