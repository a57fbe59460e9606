import SwaggerUI from "swagger-ui-dist/swagger-ui-es-bundle.js";
import "swagger-ui-dist/swagger-ui.css";

const KEY = "bnrecal-token";

/** Paths are text: a link inside the button that opens a route cannot be reached by keyboard. */
const pathsAsText = () => ({
  wrapComponents: {
    DeepLink:
      (_: unknown, system: { React: { createElement: (...parts: unknown[]) => unknown } }) =>
      ({ text }: { text: unknown }) =>
        system.React.createElement("span", null, text),
  },
});

SwaggerUI({
  url: "/openapi.json",
  dom_id: "#reference",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  filter: true,
  tryItOutEnabled: true,
  validatorUrl: null,
  plugins: [pathsAsText],
  // The token that was entered in the page, unless another one was entered here.
  requestInterceptor: (request: { headers: Record<string, string> }) => {
    const token = sessionStorage.getItem(KEY);
    if (token && !request.headers.Authorization) {
      request.headers.Authorization = `Bearer ${token}`;
    }
    return request;
  },
});
