for (const plot of document.querySelectorAll(".plot[data-chart]")) {
  const chart = JSON.parse(plot.dataset.chart);
  const cursor = Object.assign(document.createElement("div"), { className: "cursor", hidden: true });
  const tip = Object.assign(document.createElement("div"), { className: "tip", hidden: true });
  plot.append(cursor, tip);
  const short = (v) => (v === null ? "not finite" : Math.abs(v) >= 1000 ? v.toLocaleString("en") : String(Number(v.toPrecision(4))));
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    const wanted = chart.low + share * (chart.high - chart.low);
    const rows = [];
    let at = null;
    for (const line of chart.lines) {
      let best = 0;
      line.x.forEach((x, i) => { if (Math.abs(x - wanted) < Math.abs(line.x[best] - wanted)) best = i; });
      if (at === null || Math.abs(line.x[best] - wanted) < Math.abs(at - wanted)) at = line.x[best];
      rows.push([line, line.y[best]]);
    }
    tip.replaceChildren(`${chart.x} ${short(Math.round(at))}`);
    for (const [line, value] of rows) {
      const row = document.createElement("div");
      const key = document.createElement("i");
      key.style.background = `var(--series-${line.colour})`;
      row.append(key, `${line.name} ${short(value)}`);
      tip.append(row);
    }
    const x = ((at - chart.low) / (chart.high - chart.low)) * box.width;
    cursor.style.left = `${x}px`;
    cursor.hidden = tip.hidden = false;
    tip.style.left = `${Math.min(Math.max(0, x + 10), Math.max(0, box.width - tip.offsetWidth))}px`;
  });
  plot.addEventListener("pointerleave", () => { cursor.hidden = tip.hidden = true; });
}
for (const button of document.querySelectorAll("button[data-copy]")) {
  button.addEventListener("click", async () => {
    const text = button.parentElement.querySelector("pre").textContent.trim();
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(button.parentElement.querySelector("pre"));
    }
  });
}
