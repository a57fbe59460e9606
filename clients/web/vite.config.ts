import { readFileSync } from "node:fs";
import { defineConfig, type Plugin } from "vite";

// Licenses ask for their text wherever the code goes, and the minifier drops comments.
const BUNDLED = [
  "preact/LICENSE",
  "swagger-ui-dist/LICENSE",
  "swagger-ui-dist/NOTICE",
  "swagger-ui-dist/swagger-ui-es-bundle.js.LICENSE.txt",
];

function licenses(): Plugin {
  return {
    name: "licenses",
    generateBundle() {
      const source = BUNDLED.map((path) => {
        const text = readFileSync(new URL(`node_modules/${path}`, import.meta.url), "utf8");
        return `${path}\n\n${text.trim()}\n`;
      }).join(`\n${"-".repeat(72)}\n\n`);
      this.emitFile({ type: "asset", fileName: "licenses.txt", source });
    },
  };
}

export default defineConfig({
  // JSX is compiled by esbuild, from the settings in tsconfig.json.
  plugins: [licenses()],
  build: {
    outDir: "../../service/page/static",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
    chunkSizeWarningLimit: 2000, // the API reference, which only /docs loads
    rollupOptions: { input: ["index.html", "docs.html"] },
  },
  server: {
    proxy: { "/v1": "http://127.0.0.1:8000", "/openapi.json": "http://127.0.0.1:8000" },
  },
});
