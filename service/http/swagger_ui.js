"use strict";

// The page works at /docs, at /docs/ and below a path prefix: everything is found relative to this script.
const root = new URL("..", document.currentScript.src);
const FORM = "application/x-www-form-urlencoded";
const TOKEN = /eyJ[\w-]+\.[\w-]+\.[\w-]+/g;

// Calls `change` for each operation of the description, and puts the result in its place.
function eachOperation(spec, change) {
  for (const [path, item] of Object.entries(spec.paths ?? {})) {
    for (const method of Object.keys(item)) {
      if (item[method].responses) item[method] = change(item[method], path, method);
    }
  }
  return spec;
}

// Calls go to the server that the page came from. Swagger UI fills a form from the examples of its members, so each
// member gets its value in the form's own example.
function adapted(description) {
  const spec = { ...structuredClone(description), servers: [{ url: root.href.replace(/\/$/, "") }] };
  return eachOperation(spec, (operation) => {
    const form = operation.requestBody?.content?.[FORM];
    const [example] = Object.values(form?.examples ?? {});
    if (example && form.schema.$ref) {
      form.schema = structuredClone(spec.components.schemas[form.schema.$ref.split("/").pop()]);
      for (const [name, value] of Object.entries(example.value)) form.schema.properties[name].example = value;
    }
    return operation;
  });
}

// The operation with `token` in place of every guest token in what a request may hold.
function filled(operation, token) {
  const asked = Object.entries(operation).filter(([name]) => name === "requestBody" || name === "parameters");
  return { ...operation, ...JSON.parse(JSON.stringify(Object.fromEntries(asked)).replace(TOKEN, token)) };
}

// Shows the guest token that was issued last in all examples, also in those of operations that are open.
function showToken(token) {
  const { specSelectors, specActions, oas3Selectors, oas3Actions } = ui.getSystem();
  const spec = eachOperation(specSelectors.specJson().toJS(), (operation) => filled(operation, token));
  specActions.updateJsonSpec(spec);
  eachOperation(spec, (operation, path, method) => {
    const opened = specSelectors.specResolvedSubtree(["paths", path, method])?.toJS();
    if (opened) specActions.updateResolvedSubtree(["paths", path, method], filled(opened, token));
    const body = oas3Selectors.requestBodyValue(path, method);
    if (typeof body === "string") {
      oas3Actions.setRequestBodyValue({ value: body.replace(TOKEN, token), pathMethod: [path, method] });
    } else if (body?.has("token")) {
      oas3Actions.setRequestBodyValue({ value: body.set("token", token), pathMethod: [path, method] });
    }
    return operation;
  });
}

const ui = SwaggerUIBundle({
  url: new URL("openapi.yaml", root).href,
  dom_id: "#api",
  validatorUrl: null, // else Swagger UI asks a validator on another host, which the policy refuses
  deepLinking: true,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  plugins: [{ statePlugins: { spec: { wrapActions: { updateJsonSpec: (update) => (spec) => update(adapted(spec)) } } } }],
  responseInterceptor: (response) => {
    const token = response.body?.token ?? response.body?.next?.token;
    if (typeof token === "string") setTimeout(showToken, 0, token);
    return response;
  },
});
