/** Figures as a picture: bars in groups, by a figure that is one. */

const WIDTH = 860;
const BAR_X = 420;
const BAR_WIDTH = 360;
const ROW = 22;
const HEAD = 34;

export interface Bar {
  group: string;
  name: string;
  ratio: number;
  /** Ours, among others'. */
  isOurs: boolean;
  /** Written behind the figure. */
  note?: string;
}

/** An SVG with a line where the ratio is one; `label` says what it shows. */
export function drawBars(label: string, bars: readonly Bar[]): string {
  const scale = BAR_WIDTH / Math.max(1, ...bars.map(({ ratio }) => ratio));
  const parts: string[] = [];
  let y = 0;
  for (const group of new Set(bars.map(({ group }) => group))) {
    y += HEAD;
    parts.push(`<text x="12" y="${y}" class="group">${escaped(group)}</text>`);
    for (const { name, ratio, isOurs, note = '' } of bars.filter((bar) => bar.group === group)) {
      y += ROW;
      const width = (ratio * scale).toFixed(1);
      const figure = `${ratio.toFixed(2)} ${note}`.trim();
      parts.push(
        `<text x="${BAR_X - 10}" y="${y}" class="name">${escaped(name)}</text>`,
        `<rect x="${BAR_X}" y="${y - 12}" width="${width}" height="15" class="${isOurs ? 'ours' : 'other'}"/>`,
        `<text x="${(BAR_X + ratio * scale + 6).toFixed(1)}" y="${y}">${escaped(figure)}</text>`,
      );
    }
  }
  const one = (BAR_X + scale).toFixed(1);
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${y + HEAD}" role="img" aria-label="${escaped(label)}">
<style>
  text { font: 13px system-ui, sans-serif; fill: #444 } .group { font-weight: 600 } .name { text-anchor: end }
  .ours { fill: #2563c9 } .other { fill: #9aa3af } .one { stroke: #444; stroke-dasharray: 3 3 }
  @media (prefers-color-scheme: dark) { text { fill: #ccc } .ours { fill: #6fa3ff } .other { fill: #6b7280 } .one { stroke: #ccc } }
</style>
<line x1="${one}" y1="12" x2="${one}" y2="${y + 8}" class="one"/>
${parts.join('\n')}
</svg>
`;
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('"', '&quot;');
}
