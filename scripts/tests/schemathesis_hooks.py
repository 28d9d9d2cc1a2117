"""What Schemathesis must know beside the OpenAPI document."""

import schemathesis

# tus has a media type of its own for plain bytes.
schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")
