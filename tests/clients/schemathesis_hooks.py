"""Lines of text, which schemathesis cannot send by itself."""

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def ndjson(ctx, value):
    return value.encode(errors="surrogatepass") if isinstance(value, str) else str(value).encode()
