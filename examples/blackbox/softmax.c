/* Softmax regression on 8 x 8 digits, as a program that hansa runs: see hansa.toml for how.

   A model is a safetensors file: 8 bytes with the length of a JSON header, little-endian, the header, and the numbers.
   This program needs no JSON parser for that: it looks for the names of its two tensors and for where they lie. */

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PIXELS = 64, CLASSES = 10, BATCH = 16, EPOCHS = 5 };
static const float LEARNING_RATE = 0.2f;

typedef struct {
    float weight[PIXELS][CLASSES];
    float bias[CLASSES];
} Model;

typedef struct {
    float x[PIXELS];
    int y;
} Example;

typedef struct {
    Example *all;
    size_t count;
} Examples;

static void fail(const char *what, const char *name) {
    fprintf(stderr, "softmax: %s %s\n", what, name);
    exit(1);
}

static FILE *opened(const char *path, const char *mode) {
    FILE *file = fopen(path, mode);
    if (!file) fail("cannot open", path);
    return file;
}

/* ---- safetensors ---- */

static const char HEADER[] = "{\"weight\":{\"dtype\":\"F32\",\"shape\":[64,10],\"data_offsets\":[0,2560]},"
                             "\"bias\":{\"dtype\":\"F32\",\"shape\":[10],\"data_offsets\":[2560,2600]}}";

static void write_model(const Model *model, const char *path) {
    FILE *file = opened(path, "wb");
    size_t padded = (sizeof HEADER - 1 + 7) / 8 * 8;
    for (int i = 0; i < 8; i++) fputc((int)(padded >> (8 * i) & 255), file);
    fprintf(file, "%-*s", (int)padded, HEADER);
    fwrite(model->weight, sizeof model->weight, 1, file);
    fwrite(model->bias, sizeof model->bias, 1, file);
    if (fclose(file)) fail("cannot write", path);
}

static void read_tensor(FILE *file, const char *header, const char *name, void *into, size_t size) {
    const char *entry = strstr(header, name);
    const char *offsets = entry ? strstr(entry, "\"data_offsets\"") : NULL;
    const char *open = offsets ? strchr(offsets, '[') : NULL;
    if (!open) fail("the model has no tensor", name);
    char *comma;
    uint64_t begin = strtoull(open + 1, &comma, 10), end = strtoull(comma + 1, NULL, 10);
    if (end - begin != size) fail("the model has another shape or dtype for", name);
    if (fseek(file, (long)(8 + strlen(header) + begin), SEEK_SET) || fread(into, size, 1, file) != 1)
        fail("the model ends within", name);
}

static void read_model(Model *model, const char *path) {
    FILE *file = opened(path, "rb");
    unsigned char length[8];
    if (fread(length, 8, 1, file) != 1) fail("no model in", path);
    uint64_t size = 0;
    for (int i = 7; i >= 0; i--) size = size << 8 | length[i];
    char *header = size < 1 << 20 ? calloc(size + 1, 1) : NULL;
    if (!header || fread(header, size, 1, file) != 1) fail("no safetensors header in", path);
    read_tensor(file, header, "\"weight\"", model->weight, sizeof model->weight);
    read_tensor(file, header, "\"bias\"", model->bias, sizeof model->bias);
    free(header);
    fclose(file);
}

/* ---- data: client `index` of `total` has every total-th line ---- */

static Examples read_examples(const char *folder, const char *name, unsigned long index, unsigned long total) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s.txt", folder, name);
    FILE *file = opened(path, "r");
    Examples mine = {NULL, 0};
    Example example;
    for (unsigned long line = 0; fscanf(file, "%d", &example.y) == 1; line++) {
        for (int p = 0; p < PIXELS; p++) {
            if (fscanf(file, "%f", &example.x[p]) != 1) fail("a line is too short in", path);
            example.x[p] /= 16;
        }
        if (example.y < 0 || example.y >= CLASSES) fail("a label is not 0 to 9 in", path);
        if (line % total != index) continue;
        mine.all = realloc(mine.all, (mine.count + 1) * sizeof example);
        if (!mine.all) fail("no memory for", path);
        mine.all[mine.count++] = example;
    }
    fclose(file);
    if (!mine.count) fail("this client has no examples in", path);
    return mine;
}

/* ---- softmax regression ---- */

static void probabilities(const Model *model, const Example *example, float *p) {
    float largest = -INFINITY, sum = 0;
    for (int c = 0; c < CLASSES; c++) {
        p[c] = model->bias[c];
        for (int i = 0; i < PIXELS; i++) p[c] += example->x[i] * model->weight[i][c];
        if (p[c] > largest) largest = p[c];
    }
    for (int c = 0; c < CLASSES; c++) sum += p[c] = expf(p[c] - largest);
    for (int c = 0; c < CLASSES; c++) p[c] /= sum;
}

/* One step of w <- w - lr (g + proximal (w - start)). */
static double step(Model *model, const Model *start, float proximal, Example *const *batch, size_t size) {
    Model gradient = {0};
    double loss = 0;
    for (size_t k = 0; k < size; k++) {
        float p[CLASSES];
        probabilities(model, batch[k], p);
        loss -= log(fmax(p[batch[k]->y], 1e-30));
        p[batch[k]->y] -= 1;
        for (int c = 0; c < CLASSES; c++) {
            gradient.bias[c] += p[c] / size;
            for (int i = 0; i < PIXELS; i++) gradient.weight[i][c] += batch[k]->x[i] * p[c] / size;
        }
    }
    float *w = model->weight[0], *g = gradient.weight[0];
    const float *w0 = start->weight[0];
    for (int i = 0; i < PIXELS * CLASSES; i++) w[i] -= LEARNING_RATE * (g[i] + proximal * (w[i] - w0[i]));
    for (int c = 0; c < CLASSES; c++)
        model->bias[c] -= LEARNING_RATE * (gradient.bias[c] + proximal * (model->bias[c] - start->bias[c]));
    return loss;
}

static uint64_t splitmix(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static void train(char **argument) {
    Model model;
    read_model(&model, argument[0]);
    Examples mine = read_examples(argument[3], "train", strtoul(argument[4], 0, 10), strtoul(argument[5], 0, 10));
    uint64_t random = strtoull(argument[6], 0, 10);
    float proximal = strtof(argument[7], 0);
    const Model start = model;
    Example **order = malloc(mine.count * sizeof *order);
    if (!order) fail("no memory for", "the order of examples");
    for (size_t i = 0; i < mine.count; i++) order[i] = &mine.all[i];
    double loss = 0;
    for (int epoch = 1; epoch <= EPOCHS; epoch++) {
        for (size_t i = mine.count - 1; i > 0; i--) {
            size_t j = splitmix(&random) % (i + 1);
            Example *other = order[i];
            order[i] = order[j];
            order[j] = other;
        }
        for (size_t i = 0; i < mine.count; i += BATCH)
            loss += step(&model, &start, proximal, order + i, mine.count - i < BATCH ? mine.count - i : BATCH);
        printf("progress %d %d\n", epoch, EPOCHS);
        fflush(stdout);
    }
    write_model(&model, argument[1]);
    FILE *metrics = opened(argument[2], "w");
    fprintf(metrics, "{\"num_examples\": %zu, \"loss\": %.9g}\n", mine.count, loss / (double)(EPOCHS * mine.count));
    if (fclose(metrics)) fail("cannot write", argument[2]);
}

static void evaluate(char **argument) {
    Model model;
    read_model(&model, argument[0]);
    Examples mine = read_examples(argument[2], "test", strtoul(argument[3], 0, 10), strtoul(argument[4], 0, 10));
    double loss = 0;
    size_t right = 0;
    for (size_t k = 0; k < mine.count; k++) {
        float p[CLASSES];
        int best = 0;
        probabilities(&model, &mine.all[k], p);
        for (int c = 1; c < CLASSES; c++) best = p[c] > p[best] ? c : best;
        right += best == mine.all[k].y;
        loss -= log(fmax(p[mine.all[k].y], 1e-30));
    }
    FILE *metrics = opened(argument[1], "w");
    fprintf(metrics, "{\"num_examples\": %zu, \"accuracy\": %.9g, \"loss\": %.9g}\n", mine.count,
            (double)right / (double)mine.count, loss / (double)mine.count);
    if (fclose(metrics)) fail("cannot write", argument[1]);
}

int main(int count, char **argument) {
    const char *command = count > 1 ? argument[1] : "";
    if (!strcmp(command, "init") && count == 3)
        write_model(&(Model){0}, argument[2]);
    else if (!strcmp(command, "train") && count == 10)
        train(argument + 2);
    else if (!strcmp(command, "evaluate") && count == 7)
        evaluate(argument + 2);
    else {
        fputs("usage: softmax init MODEL\n"
              "       softmax train MODEL NEW_MODEL METRICS FOLDER INDEX TOTAL SEED PROXIMAL\n"
              "       softmax evaluate MODEL METRICS FOLDER INDEX TOTAL\n", stderr);
        return 2;
    }
    return 0;
}
