/**
 * Makes an element. Properties are set as such where the element has them (className, onclick, disabled, value), as attributes
 * otherwise; what is null or undefined is left out. Text is text: nothing here ever reads HTML.
 * @param {string} tag
 * @param {Record<string, any> | null} [properties]
 * @param {...(Node | string | number | null | undefined | false | (Node | string)[])} children
 * @returns {any} the element
 */
export function h(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined) continue;
    if (name in element && !name.includes("-") && name !== "list") /** @type {any} */ (element)[name] = value;
    else element.setAttribute(name, String(value));
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false) element.append(/** @type {any} */ (child));
  }
  return element;
}

/**
 * Calls fn soon, once for all calls within the time, and then not sooner again: a burst of events is one request.
 * @param {() => unknown} fn
 * @param {number} milliseconds
 */
export function paced(fn, milliseconds) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  let last = 0;
  return () => {
    timer ??= setTimeout(() => {
      timer = undefined;
      last = Date.now();
      fn();
    }, Math.max(10, last + milliseconds - Date.now()));
  };
}
