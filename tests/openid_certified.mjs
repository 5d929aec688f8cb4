// The certified OpenID provider of https://github.com/panva/node-oidc-provider, with one client: `node openid_certified.mjs PORT SECRET`.
import Provider from "oidc-provider";

const [port, secret] = process.argv.slice(2);
const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [
    {
      client_id: "hansa-here",
      client_secret: secret,
      application_type: "native", // so that the port of the redirect to 127.0.0.1 may be any (RFC 8252)
      grant_types: ["authorization_code", "urn:ietf:params:oauth:grant-type:device_code"],
      redirect_uris: ["http://127.0.0.1/callback"],
    },
  ],
  conformIdTokenClaims: false, // claims of the scopes are in the ID token itself
  claims: { openid: ["sub"], profile: ["preferred_username"], email: ["email"] },
  features: { devInteractions: { enabled: true }, deviceFlow: { enabled: true } },
  pkce: { required: () => true },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, preferred_username: id, email: `${id}@example.org` }) }),
});
provider.listen(Number(port), "127.0.0.1", () => console.log("ready"));
