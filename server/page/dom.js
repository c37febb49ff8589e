// Finds and makes elements of the page.

export const find = (id) => document.getElementById(id);

export function element(name, properties, children = []) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}
