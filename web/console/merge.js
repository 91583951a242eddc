/**
 * Merging two edits of one document.
 *
 * Objects are merged member by member; anything else, arrays too, is one thing that is kept or replaced. Where only one side has
 * changed something, that change is in. Where both have, and differently, it is a conflict, and theirs stands until somebody chooses.
 */

/**
 * @typedef {object} Conflict
 * @property {string[]} path
 * @property {any} mine undefined when it was deleted
 * @property {any} theirs likewise
 */

/**
 * @param {any} base what both began with
 * @param {any} mine
 * @param {any} theirs
 * @returns {{merged: any, conflicts: Conflict[]}}
 */
export function merge(base, mine, theirs) {
  /** @type {Conflict[]} */
  const conflicts = [];
  return { merged: three(base, mine, theirs, [], conflicts), conflicts };
}

/**
 * @param {any} base @param {any} mine @param {any} theirs @param {string[]} path @param {Conflict[]} conflicts
 * @returns {any}
 */
function three(base, mine, theirs, path, conflicts) {
  if (same(mine, theirs) || same(base, mine)) return theirs;
  if (same(base, theirs)) return mine;
  if (isObject(mine) && isObject(theirs)) {
    const from = isObject(base) ? base : {};
    /** @type {Record<string, any>} */
    const merged = {};
    for (const name of new Set([...Object.keys(theirs), ...Object.keys(mine)])) {
      const value = three(own(from, name), own(mine, name), own(theirs, name), [...path, name], conflicts);
      if (value !== undefined) put(merged, name, value);
    }
    return merged;
  }
  conflicts.push({ path, mine, theirs });
  return theirs;
}

/**
 * The document with a conflict decided: value is where path leads, or nothing is, when it is undefined.
 * @param {any} document @param {string[]} path @param {any} value
 * @returns {any}
 */
export function decide(document, path, value) {
  if (path.length === 0) return value;
  const [name, ...rest] = path;
  const copy = { ...(isObject(document) ? document : {}) };
  const inner = decide(own(copy, name), rest, value);
  if (inner === undefined) delete copy[name];
  else put(copy, name, inner);
  return copy;
}

/** @param {any} value */
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/** @param {any} object @param {string} name a member's, never one of the prototype's */
const own = (object, name) => Object.hasOwn(object, name) ? object[name] : undefined;

/** @param {any} object @param {string} name @param {any} value "__proto__" is a name like others in JSON */
const put = (object, name, value) => Object.defineProperty(object, name, { value, enumerable: true, configurable: true, writable: true });

/**
 * Whether two values are the same JSON.
 * @param {any} a @param {any} b
 * @returns {boolean}
 */
export function same(a, b) {
  if (a === b) return true;
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((value, i) => same(value, b[i]));
  if (!isObject(a) || !isObject(b)) return false;
  const names = Object.keys(a);
  return names.length === Object.keys(b).length && names.every((name) => Object.hasOwn(b, name) && same(a[name], b[name]));
}
