/** Small helpers around the document. */

/** The element of this id, which index.html has. */
export function part<T extends HTMLElement = HTMLElement>(id: string): T {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no element '${id}'`);
  return element as T;
}

/** Makes an element; `content` is text or children, never markup. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  properties: Partial<HTMLElementTagNameMap[K]> = {},
  ...content: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...content);
  return element;
}

/** Tells what happened to those who do not see the page. */
export function announce(text: string): void {
  part('announcer').textContent = text;
}

/** Lets the user choose a file; to be called on a click. */
export function chooseFile(take: (file: File) => void): void {
  const input = make('input', { type: 'file', onchange: () => take(input.files![0]) });
  input.click();
}

/** Asks for a name, or for a yes. Undefined when the question was dismissed. */
export function ask(question: {
  title: string;
  text: string;
  yes: string;
  danger?: boolean;
  name?: string;
}): Promise<string | undefined> {
  const dialog = part<HTMLDialogElement>('ask');
  const input = part<HTMLInputElement>('ask-input');
  const yes = part('ask-yes');
  part('ask-title').textContent = question.title;
  part('ask-text').textContent = question.text;
  yes.textContent = question.yes;
  yes.className = question.danger ? 'danger' : 'main';
  part('ask-field').hidden = question.name === undefined;
  input.required = question.name !== undefined;
  input.value = question.name ?? '';
  part('ask-no').onclick = () => dialog.close();
  dialog.returnValue = '';
  dialog.showModal();
  input.select();
  return new Promise((resolve) => {
    dialog.addEventListener(
      'close',
      () => resolve(dialog.returnValue === 'yes' ? input.value.trim() : undefined),
      { once: true },
    );
  });
}
