// Finds layers by name. The report is complete without it: all layers can be opened by hand.
// The server's page, which shows a report without its scripts, imports the function.

/** Show only the layers whose name contains a text; return how many there are, as text. */
export function showLayers(report, text) {
  const wanted = text.trim().toLowerCase();
  const rows = report.querySelectorAll("table.layers tbody tr");
  let hits = 0;
  for (const row of rows) {
    const hit = row.cells[0].textContent.toLowerCase().includes(wanted);
    row.hidden = !hit;
    hits += hit;
  }
  for (const table of report.querySelectorAll("table.layers")) {
    const stage = table.closest("details.stage");
    const found = table.querySelector("tbody tr:not([hidden])") !== null;
    if (stage) {
      stage.hidden = !found;
      stage.open = wanted !== "" && found;
    }
    if (wanted !== "") table.closest("details:not(.stage)").open = true;
  }
  return wanted === "" ? "" : `${hits} of ${rows.length} layers`;
}

const box = document.getElementById("find");
if (box) {
  box.closest("[hidden]").hidden = false;
  box.addEventListener("input", () => {
    document.getElementById("hits").textContent = showLayers(document, box.value);
  });
}
