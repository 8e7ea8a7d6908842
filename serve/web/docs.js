// openapi.json as a page: every route with its parameters, its body and its answers.

const make = (tag, text = "", className = "") => Object.assign(document.createElement(tag), { textContent: text, className });

function typeOf(schema, schemas, depth = 0) {
  if (!schema) return "";
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    return depth > 5 ? name : typeOf(schemas[name], schemas, depth + 1);
  }
  const several = schema.oneOf || schema.anyOf;
  if (several) return several.map((one) => typeOf(one, schemas, depth + 1)).join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.type === "array") return `[${schema.prefixItems ? schema.prefixItems.map((one) => typeOf(one, schemas, depth + 1)).join(", ") : `${typeOf(schema.items, schemas, depth + 1)}, …`}]`;
  if (schema.properties) {
    const pad = "  ".repeat(depth + 1);
    const rows = Object.entries(schema.properties).map(([name, one]) => `${pad}${name}${(schema.required || []).includes(name) ? "" : "?"}: ${typeOf(one, schemas, depth + 1)}`);
    return `{\n${rows.join("\n")}\n${"  ".repeat(depth)}}`;
  }
  return schema.format ? `${schema.type} (${schema.format})` : schema.type || "any";
}

function parameterTable(parameters, schemas) {
  const table = make("table");
  for (const parameter of parameters) {
    const row = make("tr");
    const unset = parameter.schema.default === undefined || parameter.schema.default === null ? "" : `, default ${JSON.stringify(parameter.schema.default)}`;
    row.append(make("td", `${parameter.name}${parameter.required ? "" : "?"}`), make("td", typeOf(parameter.schema, schemas) + unset), make("td", parameter.description || parameter.schema.description || ""));
    table.append(row);
  }
  return table;
}

function routeSection(path, method, operation, schemas) {
  const section = make("section");
  const title = make("h2");
  title.append(make("span", method.toUpperCase(), "method"), path);
  section.append(title, make("p", operation.description || operation.summary));
  if (operation.parameters) section.append(parameterTable(operation.parameters, schemas));
  for (const [kind, body] of Object.entries(operation.requestBody?.content || {})) section.append(make("p", `body: ${kind}`, "hint"), make("pre", typeOf(body.schema, schemas)));
  for (const [kind, answer] of Object.entries(operation.responses["200"]?.content || {})) section.append(make("p", `answer: ${kind}`, "hint"), make("pre", typeOf(answer.schema, schemas)));
  section.append(make("p", `errors: ${Object.keys(operation.responses).filter((status) => status !== "200").join(", ") || "none"}`, "hint"));
  return section;
}

const routes = document.getElementById("routes");
try {
  const document_ = await (await fetch("openapi.json")).json();
  routes.replaceChildren(...Object.entries(document_.paths).flatMap(([path, operations]) => Object.entries(operations).map(([method, operation]) => routeSection(path, method, operation, document_.components.schemas))));
} catch {
  routes.replaceChildren(make("p", "openapi.json cannot be read just now.", "problem"));
}
