"""The page's looks: light, dark and print; tables scroll inside their own boxes."""

STYLE = """
:root { color-scheme: light dark; --ink:#1c1f23; --soft:#5b6470; --paper:#ffffff; --card:#f5f7f9; --line:#d5dbe1;
  --link:#0b57a4; --yes:#006d4e; --no:#a33a00; --open:#5b4a00; --yesbg:#e2f4ec; --nobg:#fdeadf; --openbg:#fbf3d3; }
@media (prefers-color-scheme: dark) { :root { --ink:#e6e9ed; --soft:#a3adb8; --paper:#14171a; --card:#1d2226;
  --line:#363d45; --link:#7fb8f5; --yes:#7fe0bb; --no:#ffb08a; --open:#f0d880; --yesbg:#12362a; --nobg:#41220f;
  --openbg:#383010; } }
* { box-sizing: border-box; }
html { scroll-padding-top: 1rem; -webkit-text-size-adjust: 100%; }
body { margin:0; color:var(--ink); background:var(--paper); font:16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto,
  "Noto Sans", "DejaVu Sans", sans-serif; overflow-wrap:break-word; }
main, header, footer, nav > ul { max-width: 1180px; margin: 0 auto; padding: 0 1rem; }
h1 { font-size:1.7rem; line-height:1.2; margin:1.4rem 0 .6rem; }
h2 { font-size:1.3rem; line-height:1.25; margin:2.6rem 0 .6rem; padding-top:.8rem; border-top:2px solid var(--line); }
h3 { font-size:1.05rem; margin:1.6rem 0 .4rem; }
p, li { max-width: 78ch; }
a { color:var(--link); }
nav { background:var(--card); border-block:1px solid var(--line); margin-top:1rem; }
nav > ul { list-style:none; display:flex; flex-wrap:wrap; gap:.1rem 1.1rem; padding-block:.6rem; }
nav a { display:inline-block; padding:.2rem 0; text-decoration:none; }
nav a:hover { text-decoration:underline; }
.verdicts { display:grid; gap:1rem; }
.verdict, .warnings, .source { background:var(--card); border:1px solid var(--line); border-radius:8px;
  padding:.9rem 1.1rem; }
.verdict h3 { margin:.1rem 0 .5rem; }
.word { display:inline-block; border-radius:4px; padding:.05rem .55rem; font-weight:650; }
.supported { color:var(--yes); background:var(--yesbg); } .not-supported { color:var(--no); background:var(--nobg); }
.cannot-be-told-here { color:var(--open); background:var(--openbg); }
.verdict ul, .warnings ul { margin:.5rem 0 .2rem; padding-left:1.2rem; }
.verdict li { margin:.35rem 0; }
.table { margin:1.2rem 0 2rem; }
.caption, figcaption { color:var(--soft); font-size:.92rem; max-width:92ch; margin:.2rem 0 .6rem; }
.notes { color:var(--soft); font-size:.9rem; margin:.5rem 0; padding-left:1.2rem; }
.scroll { overflow-x:auto; border:1px solid var(--line); border-radius:6px; max-width:100%; }
.scroll:focus-visible { outline:2px solid var(--link); }
table { border-collapse:separate; border-spacing:0; font-size:.88rem; line-height:1.35; width:100%;
  font-variant-numeric:tabular-nums; }
th, td { padding:.32rem .6rem; text-align:left; vertical-align:top; border-bottom:1px solid var(--line); }
thead th { background:var(--card); font-weight:600; vertical-align:bottom; white-space:normal; min-width:5.2rem; }
thead th.columns { text-align:center; border-left:1px solid var(--line); }
td.number, td.none { text-align:right; white-space:nowrap; }
td.none { color:var(--soft); font-style:italic; font-size:.8rem;
  white-space:normal; min-width:4.6rem; }
tbody th { font-weight:500; position:sticky; left:0; background:var(--paper); min-width:12rem; max-width:16rem; }
thead tr:first-child th:first-child { position:sticky; left:0; z-index:1; }
tr.group th { background:var(--card); font-weight:650; max-width:none; padding-top:.45rem; }
tr.group span { position:sticky; left:.6rem; display:inline-block; max-width:min(100%, calc(100vw - 4rem)); }
td.words { min-width:7.5rem; }
tbody tr:first-child > * { border-top:0; } tbody tr:last-child > * { border-bottom:0; }
td a { color:inherit; text-decoration:underline dotted; text-underline-offset:3px; }
td a:hover { color:var(--link); }
.gallery { display:grid; grid-template-columns:repeat(auto-fill, minmax(min(100%, 400px), 1fr)); gap:1rem; }
.gallery figure { margin:0; border:1px solid var(--line); border-radius:8px; overflow:hidden; background:var(--card); }
.gallery img { display:block; width:100%; height:auto; background:#fff; }
.gallery figcaption { padding:.5rem .8rem .6rem; margin:0; }
details { border:1px solid var(--line); border-radius:8px; padding:.5rem .9rem; margin:.8rem 0; }
summary { cursor:pointer; font-weight:600; padding:.2rem 0; }
.source { margin:.7rem 0; } .source h3 { margin:0 0 .3rem; font-size:1rem; overflow-wrap:anywhere; }
.source p { margin:.2rem 0; color:var(--soft); font-size:.9rem; overflow-wrap:anywhere; max-width:none; }
.source:target, .table:target, li:target { outline:3px solid var(--link); outline-offset:2px; }
code { font-family:ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size:.85rem;
  overflow-wrap:anywhere; }
pre { white-space:pre-wrap; margin:.4rem 0; }
pre span { display:inline-block; max-width:100%; } .changed { color:var(--no); font-weight:600; }
.sets { columns: 22rem; font-size:.9rem; padding-left:1.6rem; } .sets li { break-inside:avoid; }
footer { color:var(--soft); font-size:.9rem; padding-block:2rem; }
@media (max-width:560px) { body { font-size:15px; } h1 { font-size:1.4rem; } h2 { font-size:1.18rem; }
  tbody th { min-width:5rem; max-width:7.2rem; } td, th { padding:.3rem .45rem; }
  .verdict, .warnings { padding:.7rem .8rem; } }
@media print { nav { display:none; } body { font-size:10pt; } .scroll { overflow:visible; border:0; }
  table { font-size:7pt; } td.number, td.none { white-space:normal; } thead th, td.words, tbody th { min-width:0; }
  tbody th, thead th:first-child { position:static; } .gallery figure, .verdict, tr { break-inside:avoid; }
  a { color:inherit; text-decoration:none; } }
"""
