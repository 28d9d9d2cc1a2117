import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.List;

/**
 * Tests a server with the HTTP client of the JDK and its default settings, which ask for an upgrade to HTTP/2: Client.java
 * ADDRESS. An error ends the program with a stack trace. The server has the model echo.
 */
public final class Client {
    private static final String JSON_LENGTH = "Inference-Header-Content-Length";

    private final HttpClient client = HttpClient.newHttpClient();
    private final String server;

    private Client(String server) {
        this.server = server;
    }

    public static void main(String[] arguments) throws Exception {
        Client client = new Client("http://" + arguments[0]);
        client.checkModels();
        client.checkJson();
        client.checkBinaryData();
        client.checkErrors();
    }

    private void checkModels() throws Exception {
        for (String path : List.of("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/echo", "/v2/models/echo/ready",
                "/v2/models/echo/config", "/v2/models/echo/stats", "/v2/models/stats")) {
            HttpResponse<String> response = client.send(request(path).build(), BodyHandlers.ofString());
            check(response.statusCode() == 200, path + ": " + response.body());
        }
    }

    private void checkJson() throws Exception {
        String json = "{\"inputs\":[{\"name\":\"x\",\"shape\":[2],\"datatype\":\"FP32\",\"data\":[1.5,-2]}]}";
        HttpRequest request = request("/v2/models/echo/infer").header("Content-Type", "application/json")
                .POST(BodyPublishers.ofString(json)).build();
        HttpResponse<String> response = client.send(request, BodyHandlers.ofString());
        check(response.statusCode() == 200, response.body());
        check(response.body().contains("\"data\":[1.5,-2.0]"), response.body());
    }

    private void checkBinaryData() throws Exception {
        for (int count : new int[] {1, 1000, 500_000}) {
            ByteBuffer data = ByteBuffer.allocate(count * 4).order(ByteOrder.LITTLE_ENDIAN);
            for (int index = 0; index < count; index++) {
                data.putFloat(index / 3f);
            }
            byte[] json = ("{\"inputs\":[{\"name\":\"x\",\"shape\":[" + count + "],\"datatype\":\"FP32\",\"parameters\":"
                    + "{\"binary_data_size\":" + data.capacity() + "}}],\"parameters\":{\"binary_data_output\":true}}")
                    .getBytes(StandardCharsets.UTF_8);
            HttpRequest request = request("/v2/models/echo/infer").header("Content-Type", "application/octet-stream")
                    .header(JSON_LENGTH, Integer.toString(json.length))
                    .POST(BodyPublishers.ofByteArrays(List.of(json, data.array()))).build();
            HttpResponse<byte[]> response = client.send(request, BodyHandlers.ofByteArray());
            check(response.statusCode() == 200, new String(response.body(), StandardCharsets.UTF_8));
            int length = Integer.parseInt(response.headers().firstValue(JSON_LENGTH).orElseThrow());
            byte[] received = Arrays.copyOfRange(response.body(), length, response.body().length);
            check(Arrays.equals(received, data.array()), count + " elements are not the same");
        }
    }

    private void checkErrors() throws Exception {
        HttpResponse<String> response = client.send(request("/v2/models/none").build(), BodyHandlers.ofString());
        check(response.statusCode() == 404 && response.body().contains("\"error\""), response.body());
    }

    private HttpRequest.Builder request(String path) {
        return HttpRequest.newBuilder(URI.create(server + path));
    }

    private static void check(boolean condition, String message) {
        if (!condition) {
            throw new AssertionError(message);
        }
    }
}
