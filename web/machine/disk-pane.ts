/** The panel of the disk at work, with the ways out of the browser for it. */
import type { BrowserDisk } from '../../hosts/browser/index.ts';
import { DiskPanel } from '../disk/panel.ts';
import { saveDisk, saveProfile } from '../images/copies.ts';
import { make, part } from '../page/dom.ts';
import { showProblem } from '../page/problems.ts';

/** `atWork` is asked at each click. */
export function makeDiskPane(
  atWork: () => { name: string; disk: BrowserDisk } | undefined,
): DiskPanel {
  const on = (act: (name: string, disk: BrowserDisk) => Promise<void>) => (): void => {
    const found = atWork();
    if (found) void act(found.name, found.disk);
  };
  const exports = (['qcow2', 'raw'] as const).map((format) =>
    make(
      'button',
      {
        type: 'button',
        id: `export-${format}`,
        onclick: on((name, disk) => saveDisk(name, format, disk)),
      },
      `Export ${format}`,
    ),
  );
  const profile = make(
    'button',
    {
      type: 'button',
      id: 'save-profile',
      title:
        'What this boot has read of its image, as a small file. Beside the image on its server, as IMAGE.profile, it lets the next boot fetch that first.',
      onclick: on(saveProfile),
    },
    'Save boot profile',
  );
  return new DiskPanel(part('disk-pane'), {
    title: 'Disk',
    figures: ['copied', 'rate', 'left', 'requests', 'downloaded', 'read', 'wrote'],
    tools: [...exports, profile],
    problem: showProblem,
  });
}
