"""How the page looks, and what moves on it."""

CSS = """
:root { color-scheme: light dark; --ink: #16202c; --dim: #5b6776; --back: #f5f7fa; --card: #ffffff;
  --line: #dde3ea; --good: #0a7d3e; --bad: #c4162f; --accent: #2563eb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf2; --dim: #9aa7b6; --back: #0e1319;
  --card: #171e27; --line: #2b3644; --good: #4ade80; --bad: #fb7185; --accent: #7cb0ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; }
main { max-width: 1280px; margin: 0 auto; padding: 20px 16px 60px; }
h1 { font-size: 1.45rem; line-height: 1.3; margin: .4rem 0; } h2 { font-size: 1.05rem; margin: 0 0 .2rem; }
p { margin: .2rem 0 .6rem; } .dim, caption { color: var(--dim); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px;
  margin: 14px 0; }
.charts { display: grid; gap: 14px; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); }
.charts .card { margin: 0; min-width: 0; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 14px 4px 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { color: var(--dim); font-weight: 600; } th:first-child, td:first-child, .text { text-align: left; }
.good { color: var(--good); } .bad { color: var(--bad); } td.good, td.bad { font-weight: 600; }
.state { display: inline-block; border-radius: 99px; padding: 1px 10px; font-size: .82rem; font-weight: 600;
  border: 1px solid currentColor; }
.finished { color: var(--good); } .running { color: var(--accent); } .stopped { color: var(--bad); }
.names { display: flex; flex-wrap: wrap; gap: 6px; margin: 4px 0 8px; }
.names button { font: inherit; font-size: .8rem; color: var(--ink); background: none; cursor: pointer;
  border: 1px solid var(--line); border-radius: 99px; padding: 2px 10px; display: flex; gap: 6px;
  align-items: center; overflow-wrap: anywhere; text-align: left; }
.names button i { width: 10px; height: 10px; border-radius: 99px; flex: none; }
.names button[aria-pressed=false] { opacity: .45; text-decoration: line-through; }
pre { overflow-x: auto; font-size: .82rem; } code { overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; border-radius: 6px; background: #fff; }
.matrix td { padding: 3px 6px; text-align: center; border: 1px solid var(--line); min-width: 2.4em; }
.matrix th { padding: 3px 8px 3px 0; } .matrix th span { writing-mode: vertical-rl; transform: rotate(180deg); }
.matrix tr:first-child th:not(.text) { text-align: center; vertical-align: bottom; padding: 3px; }
.matrix { margin: 0 0 14px; }
.maps { display: grid; gap: 20px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); }
.maps p { margin: 10px 0 2px; font-size: .85rem; } .whole { display: block; height: 190px; }
.level { display: grid; gap: 6px; grid-template-columns: repeat(3, minmax(0, 1fr)); }
figure { margin: 0; } figcaption { color: var(--dim); font-size: .75rem; }
.map { width: 100%; display: block; image-rendering: pixelated; border-radius: 3px; }
summary { cursor: pointer; font-weight: 600; }
@media (max-width: 600px) { main { padding: 10px 10px 40px; } .card { padding: 12px; } h1 { font-size: 1.2rem; }
  th, td { padding-right: 10px; } }
@media print { .names button[aria-pressed=false] { display: none; } }
"""

SCRIPT = """
const dark = matchMedia('(prefers-color-scheme: dark)');
const figures = () => Bokeh.documents.flatMap(d => typeof d.roots === 'function' ? d.roots() : d.roots);
function paint() {
  const ink = getComputedStyle(document.body).getPropertyValue('--dim').trim();
  for (const figure of figures())
    for (const axis of [...figure.below, ...figure.left])
      axis.setv({axis_label_text_color: ink, major_label_text_color: ink, axis_line_color: ink,
        major_tick_line_color: ink, minor_tick_line_color: null});
}
const off = {arms: new Set(), names: new Set()};
document.querySelectorAll('.names button[aria-pressed=false]').forEach(b => off.names.add(b.dataset.key));
function show() {
  for (const figure of figures())
    for (const line of figure.renderers)
      line.visible = !off.arms.has(line.tags[1]) && !off.names.has(figure.name + ' ' + line.tags[0]);
}
document.querySelectorAll('.names button').forEach(button => button.addEventListener('click', () => {
  const set = off[button.dataset.set], key = button.dataset.key;
  set.has(key) ? set.delete(key) : set.add(key);
  button.setAttribute('aria-pressed', String(!set.has(key)));
  show();
}));
const drawn = setInterval(() => {
  if (figures().length < document.querySelectorAll('.charts .card').length) return;
  clearInterval(drawn);
  paint();
  dark.addEventListener('change', paint);
  document.body.dataset.ready = 'yes';
}, 50);
"""
