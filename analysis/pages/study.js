// Draws the study page's charts, the first at once, the others when they come into view, and follows switches, colour
// scheme, printing and the address of the MLflow UI. The page is whole without it, but for the charts.
"use strict";
const {panels, templates} = JSON.parse(document.getElementById("drawing").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const PRINTED = {width: 330, height: 260, margin: {r: 85}};  // as the style sheet has it
let printing = false;

function draw(panel) {
  const {data, layout} = panels[panel.id], scheme = dark.matches && !printing ? 1 : 0;
  const off = [...panel.closest("figure").querySelectorAll("input:not(:checked)")].map(box => box.value);
  const traces = data.map(trace => {
    const color = trace.meta.colours[scheme];
    return {
      ...trace,
      visible: !trace.meta.parts.some(part => off.includes(part)),
      fillcolor: color, line: {...trace.line, color}, textfont: {color},
      marker: {...trace.marker, color, line: {...trace.marker?.line, color}},
    };
  });
  const touched = matchMedia("(pointer: coarse)").matches;  // a finger that scrolls or taps must not zoom
  const size = printing ? PRINTED : {autosize: true};
  Plotly.react(panel, traces, {...layout, ...size, dragmode: touched ? false : "zoom", template: templates[scheme]},
    {responsive: true, displayModeBar: false, doubleClick: touched ? false : "reset"});
}

const drawn = () => document.querySelectorAll(".panel.js-plotly-plot").forEach(draw);
const seen = new IntersectionObserver(entries => entries.filter(entry => entry.isIntersecting).forEach(entry => {
  seen.unobserve(entry.target);
  draw(entry.target);
}), {rootMargin: "25%"});
document.querySelectorAll(".panel").forEach(panel => seen.observe(panel));
document.querySelector(".panels").querySelectorAll(".panel").forEach(draw);  // the first chart at once
document.querySelectorAll(".switches").forEach(switches => switches.addEventListener("change", () =>
  switches.closest("figure").querySelectorAll(".panel.js-plotly-plot").forEach(draw)));
dark.addEventListener("change", drawn);
addEventListener("beforeprint", () => { printing = true; document.querySelectorAll(".panel").forEach(draw); });
addEventListener("afterprint", () => { printing = false; drawn(); });

const address = document.getElementById("mlflow");
address.addEventListener("input", () => {
  if (address.validity.valid) document.querySelectorAll("a.run").forEach(link => {
    link.href = address.value.replace(/\/+$/, "") + link.href.slice(link.href.indexOf("/#/runs/"));
  });
});
