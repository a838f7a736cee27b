// The texts of scripts in the page's language, with plural forms, and numbers. The page brings the catalogue as data;
// what it lacks stays English, as the code says it. A percent sign is %%.

const data = document.getElementById("words");
const { messages, plurals } = data ? JSON.parse(data.textContent) : { messages: {}, plurals: { one: 0, other: 1 } };

// As the browser writes this language, where it knows it better: en-GB for en.
const page = document.documentElement.lang;
export const locale = navigator.languages.find((one) => one === page || one.startsWith(`${page}-`)) || page;
const rules = new Intl.PluralRules(page);

export function number(value, digits = 0) {
  return new Intl.NumberFormat(locale, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
}

function filled(text, values) {
  return text.replace(/%%|%\((\w+)\)s/g, (mark, name) => (name ? values[name] : "%"));
}

export function gettext(message, values = {}) {
  return filled(messages[message] ?? message, values);
}

// `%(num)s` is the number.
export function ngettext(one, many, count, values = {}) {
  const forms = messages[one];
  const text = forms ? forms[plurals[rules.select(count)] ?? plurals.other] : count === 1 ? one : many;
  return filled(text, { num: number(count), ...values });
}
