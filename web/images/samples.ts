/** Images that this site offers. */
import { make, part } from '../page/dom.ts';
import { bytes } from '../page/format.ts';

/** An image that this site offers, as samples.json beside the page lists it. */
export interface Sample {
  name: string;
  /** Absolute, or relative to the page. */
  url: string;
  text?: string;
  /** Bytes of the image. */
  size?: number;
}

/** What this site offers; some servers answer with a page of theirs where there is nothing. */
export async function fetchSamples(): Promise<Sample[]> {
  const response = await fetch('samples.json').catch(() => undefined);
  const samples = response?.ok ? ((await response.json().catch(() => [])) as Sample[]) : [];
  return samples.map((sample) => ({ ...sample, url: new URL(sample.url, document.baseURI).href }));
}

/** `boot` is called for the one that is chosen. */
export function showSamples(samples: readonly Sample[], boot: (sample: Sample) => void): void {
  part('samples').replaceChildren(
    ...samples.map((sample) =>
      make(
        'button',
        { type: 'button', className: 'sample main', onclick: () => boot(sample) },
        make(
          'b',
          {},
          `Boot ${sample.name.replace(/^(A|An|The) /, (article) => article.toLowerCase())}`,
        ),
        make(
          'span',
          {},
          [sample.size && bytes(sample.size), sample.text].filter(Boolean).join(' · '),
        ),
      ),
    ),
  );
}
