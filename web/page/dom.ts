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

/** What a question of the page says, and what may be answered. */
export interface Question {
  title: string;
  text: string;
  yes: string;
  /** Another answer than yes and no. */
  other?: string;
  danger?: boolean;
  /** What the field has at first; without it there is none. */
  name?: string;
  /** What the field is called; default Name. */
  label?: string;
}

/** Asks for a name, or for a yes. Undefined when the question was dismissed. */
export async function ask(question: Question): Promise<string | undefined> {
  const answer = await answerTo(question);
  return answer === 'yes' ? part<HTMLInputElement>('ask-input').value.trim() : undefined;
}

/** Asks which of two things to do. Undefined when the question was dismissed. */
export function answerTo(question: Question): Promise<'yes' | 'other' | undefined> {
  const dialog = part<HTMLDialogElement>('ask');
  const input = part<HTMLInputElement>('ask-input');
  const [yes, other] = [part('ask-yes'), part('ask-other')];
  part('ask-title').textContent = question.title;
  part('ask-text').textContent = question.text;
  yes.textContent = question.yes;
  yes.className = question.danger ? 'danger' : 'main';
  other.textContent = question.other ?? '';
  other.hidden = question.other === undefined;
  part('ask-field').hidden = question.name === undefined;
  part('ask-label').textContent = question.label ?? 'Name';
  input.required = question.name !== undefined;
  input.value = question.name ?? '';
  part('ask-no').onclick = () => dialog.close();
  other.onclick = () => dialog.close('other');
  dialog.returnValue = '';
  dialog.showModal();
  if (question.name !== undefined) input.select();
  else if (!question.danger) yes.focus();
  return new Promise((resolve) => {
    dialog.addEventListener(
      'close',
      () => resolve((dialog.returnValue || undefined) as 'yes' | 'other' | undefined),
      { once: true },
    );
  });
}
