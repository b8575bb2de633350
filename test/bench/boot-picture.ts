/** The times to the prompt as a picture: a bar for each way, by the time of a local file. */

const WIDTH = 720;
const BAR_X = 280;
const BAR_WIDTH = 360;
const ROW = 22;
const HEAD = 34;
const OURS = /^Millrace/;

/** `ratio` is of the time to the prompt by that of a local file. */
export function drawBoots(boots: readonly { line: string; name: string; ratio: number }[]): string {
  const most = Math.max(...boots.map(({ ratio }) => ratio));
  const scale = BAR_WIDTH / most;
  const parts: string[] = [];
  let y = 0;
  for (const line of new Set(boots.map(({ line }) => line))) {
    y += HEAD;
    parts.push(`<text x="12" y="${y}" class="line">${line}</text>`);
    for (const { name, ratio } of boots.filter((boot) => boot.line === line)) {
      y += ROW;
      const color = OURS.test(name) ? 'ours' : 'other';
      parts.push(
        `<text x="${BAR_X - 10}" y="${y}" class="name">${escaped(name)}</text>`,
        `<rect x="${BAR_X}" y="${y - 12}" width="${(ratio * scale).toFixed(1)}" height="15" class="${color}"/>`,
        `<text x="${(BAR_X + ratio * scale + 6).toFixed(1)}" y="${y}">${ratio.toFixed(2)}</text>`,
      );
    }
  }
  const local = BAR_X + scale;
  const height = y + HEAD;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="Time to the prompt, by that of a local file">
<style>
  text { font: 13px system-ui, sans-serif; fill: #444 } .line { font-weight: 600 } .name { text-anchor: end }
  .ours { fill: #2563c9 } .other { fill: #9aa3af } .local { stroke: #444; stroke-dasharray: 3 3 }
  @media (prefers-color-scheme: dark) { text { fill: #ccc } .ours { fill: #6fa3ff } .other { fill: #6b7280 } .local { stroke: #ccc } }
</style>
<line x1="${local.toFixed(1)}" y1="12" x2="${local.toFixed(1)}" y2="${y + 8}" class="local"/>
${parts.join('\n')}
</svg>
`;
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
}
