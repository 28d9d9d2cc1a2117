import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Path;
import java.util.StringJoiner;

/** Sends files with the HttpClient of Java, as it is without settings. Prints what became of each, by its name. */
public class HttpClientUpload {
    static final String BOUNDARY = "----a-boundary-of-a-client";

    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        StringJoiner told = new StringJoiner(",", "{", "}");
        for (int at = 1; at < arguments.length; at++) {
            Path file = Path.of(arguments[at]);
            String name = file.getFileName().toString();
            HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0]))
                .header("Content-Type", "multipart/form-data; boundary=" + BOUNDARY)
                .POST(form(name, file))
                .build();
            int status = client.send(request, BodyHandlers.ofString()).statusCode();
            String became = status == 201 ? "stored" : Integer.toString(status);
            told.add('"' + name + "\":\"" + became + '"');
        }
        System.out.println(told);
    }

    static BodyPublisher form(String name, Path file) throws Exception {
        String head = "--" + BOUNDARY + "\r\n"
            + "Content-Disposition: form-data; name=\"file\"; filename=\"" + name + "\"\r\n"
            + "Content-Type: text/plain\r\n\r\n";
        String tail = "\r\n--" + BOUNDARY + "--\r\n";
        return BodyPublishers.concat(
            BodyPublishers.ofString(head), BodyPublishers.ofFile(file), BodyPublishers.ofString(tail));
    }
}
