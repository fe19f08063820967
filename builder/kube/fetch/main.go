// Fetch brings the source into a Job: it downloads the canonical archive (a tar) from SOURCE_URL, compares its SHA-256
// with --digest, and unpacks it below --to. Nothing is unpacked of an archive with another digest.
//
// The archive was written by the builder itself, so whatever an honest one never holds is refused. How it failed is one
// JSON object in --report, which becomes the container's termination message.
package main

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	attempts   = 5
	firstPause = 500 * time.Millisecond
	silence    = 60 * time.Second
)

// Failure is a reason of the builder's table with words for people, which never name the URL: it is a credential.
type Failure struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
	again   bool
}

func (f *Failure) Error() string { return f.Reason + ": " + f.Message }

func main() {
	digest := flag.String("digest", "", "sha256:<hex> of the archive")
	to := flag.String("to", "", "folder to unpack into")
	limit := flag.Int64("max-bytes", 0, "most bytes of the archive")
	report := flag.String("report", "/dev/termination-log", "where a failure is written")
	flag.Parse()
	err := fetch(os.Getenv("SOURCE_URL"), *digest, *to, *limit)
	if err == nil {
		return
	}
	var failure *Failure
	if !errors.As(err, &failure) {
		failure = &Failure{Reason: "Internal", Message: err.Error()}
	}
	text, _ := json.Marshal(failure)
	os.WriteFile(*report, text, 0o644)
	fmt.Fprintln(os.Stderr, failure)
	os.Exit(1)
}

func fetch(source, digest, to string, limit int64) error {
	want, found := strings.CutPrefix(digest, "sha256:")
	if !found || len(want) != 64 || source == "" || to == "" || limit <= 0 {
		return errors.New("SOURCE_URL, --digest, --to and --max-bytes are needed")
	}
	archive, err := os.CreateTemp(to, ".archive-")
	if err != nil {
		return disk(err)
	}
	defer os.Remove(archive.Name())
	defer archive.Close()
	if err := persistently(source, want, limit, archive); err != nil {
		return err
	}
	if _, err := archive.Seek(0, io.SeekStart); err != nil {
		return disk(err)
	}
	return unpack(archive, to)
}

// persistently downloads until the bytes are the right ones; a store that answers "no" is asked once.
func persistently(source, want string, limit int64, archive *os.File) error {
	pause := firstPause
	for attempt := 1; ; attempt++ {
		err := download(source, want, limit, archive)
		var failure *Failure
		if err == nil || attempt == attempts || !errors.As(err, &failure) || !failure.again {
			return err
		}
		fmt.Fprintf(os.Stderr, "%v; again in %v\n", err, pause)
		time.Sleep(pause)
		pause *= 2
	}
}

func download(source, want string, limit int64, archive *os.File) error {
	if err := archive.Truncate(0); err != nil {
		return disk(err)
	}
	if _, err := archive.Seek(0, io.SeekStart); err != nil {
		return disk(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	watch := time.AfterFunc(silence, cancel)
	defer watch.Stop()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, source, nil)
	if err != nil {
		return &Failure{Reason: "Internal", Message: "SOURCE_URL is no URL"}
	}
	// The bytes are hashed as they are stored.
	request.Header.Set("Accept-Encoding", "identity")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return unavailable("the source store cannot be reached: "+plain(err), true)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		again := response.StatusCode >= 500 || response.StatusCode == 429 || response.StatusCode == 408
		return unavailable("the source store answered "+response.Status, again)
	}
	hash := sha256.New()
	body := &watched{inner: io.LimitReader(response.Body, limit+1), watch: watch}
	size, err := io.Copy(io.MultiWriter(archive, hash), body)
	if err != nil {
		var trouble *fs.PathError
		if errors.As(err, &trouble) {
			return disk(err)
		}
		return unavailable("the source store broke off: "+plain(err), true)
	}
	if size > limit {
		return unavailable(fmt.Sprintf("the source store gave more than the %d bytes of this source", limit), false)
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != want {
		return unavailable("the source store gave sha256:"+got+" for sha256:"+want, true)
	}
	return nil
}

// watched moves the time limit with every read.
type watched struct {
	inner io.Reader
	watch *time.Timer
}

func (w *watched) Read(buffer []byte) (int, error) {
	count, err := w.inner.Read(buffer)
	w.watch.Reset(silence)
	return count, err
}

// unpack writes below one folder; the kernel resolves every path inside it.
func unpack(archive io.Reader, to string) error {
	root, err := os.OpenRoot(to)
	if err != nil {
		return disk(err)
	}
	defer root.Close()
	reader := tar.NewReader(archive)
	var folders []*tar.Header
	for {
		header, err := reader.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return errors.New("the archive is no tar: " + err.Error())
		}
		name := path.Clean(header.Name)
		if !filepath.IsLocal(name) {
			return fmt.Errorf("the archive holds %q", header.Name)
		}
		if parent := path.Dir(name); parent != "." {
			if err := root.MkdirAll(parent, 0o755); err != nil {
				return disk(err)
			}
		}
		switch header.Typeflag {
		case tar.TypeDir:
			if err := root.MkdirAll(name, 0o755); err != nil {
				return disk(err)
			}
			folders = append(folders, header)
		case tar.TypeReg:
			if err := write(root, name, header, reader); err != nil {
				return err
			}
		case tar.TypeSymlink:
			if err := root.Symlink(header.Linkname, name); err != nil {
				return disk(err)
			}
		default:
			return fmt.Errorf("%q is neither file, folder nor link", header.Name)
		}
	}
	for index := len(folders) - 1; index >= 0; index-- { // what is written into a folder changes its time
		header := folders[index]
		if err := root.Chtimes(path.Clean(header.Name), header.ModTime, header.ModTime); err != nil {
			return disk(err)
		}
	}
	return nil
}

func write(root *os.Root, name string, header *tar.Header, content io.Reader) error {
	mode := fs.FileMode(0o644)
	if header.FileInfo().Mode()&0o111 != 0 {
		mode = 0o755
	}
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return disk(err)
	}
	if _, err := io.Copy(file, content); err != nil {
		file.Close()
		return disk(err)
	}
	if err := file.Close(); err != nil {
		return disk(err)
	}
	if err := root.Chmod(name, mode); err != nil { // whatever the umask
		return disk(err)
	}
	return root.Chtimes(name, header.ModTime, header.ModTime)
}

func unavailable(message string, again bool) error {
	return &Failure{Reason: "SourceStoreUnavailable", Message: message, again: again}
}

func disk(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &Failure{Reason: "NodeDiskFull", Message: "the disk of the build's node is full"}
	}
	return err
}

// plain is an error's cause without the URL around it, whose signature is a credential.
func plain(err error) string {
	var address *url.Error
	if errors.As(err, &address) {
		err = address.Err
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Sprintf("no byte for %v", silence)
	}
	return err.Error()
}
