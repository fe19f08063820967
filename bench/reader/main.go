// Command reader opens log streams of one build, checks that each has every sequence once and in order, and measures
// how old a line is when it arrives. A line begins with the time at which it was printed (ns, 19 digits). Meanwhile it
// may ask for another organization's builds, and hold a stream that reads slowly. It prints one JSON document.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"sort"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	bucketNs = 100_000 // of the histogram of ages
	buckets  = 3_000_000
)

var (
	server     = flag.String("server", "", "base URL")
	token      = flag.String("token", "", "whose build it is")
	build      = flag.String("build", "", "its id")
	readers    = flag.Int("readers", 1, "how many streams")
	slow       = flag.Int("slow", 0, "bytes a second of one stream more")
	otherToken = flag.String("other-token", "", "of another organization, whose list is asked for meanwhile")
)

type found struct {
	lines int
	err   string
	ages  []uint32
}

type report struct {
	Lines      int       `json:"lines"`
	Errors     []string  `json:"errors"`
	AgeP50     float64   `json:"age_p50_ms"`
	AgeP99     float64   `json:"age_p99_ms"`
	AgeMax     float64   `json:"age_max_ms"`
	Asked      []float64 `json:"asked_ms"`
	SlowLines  int       `json:"slow_lines"`
	CPUSeconds float64   `json:"cpu_s"`
}

func open(client *http.Client) (*http.Response, error) {
	request, err := http.NewRequest("GET", *server+"/v1/ignite/builds/"+*build+"/logs/stream?fromStart=true", nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+*token)
	response, err := client.Do(request)
	if err == nil && response.StatusCode != 200 {
		err = fmt.Errorf("status %d", response.StatusCode)
	}
	return response, err
}

// follow reads one stream to its eof.
func follow(client *http.Client, ages bool) (result found) {
	response, err := open(client)
	if err != nil {
		return found{err: err.Error()}
	}
	defer response.Body.Close()
	if ages {
		result.ages = make([]uint32, buckets)
	}
	in := bufio.NewReaderSize(response.Body, 256*1024)
	var id, last int
	ended := false
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			result.err = err.Error()
			return result
		}
		switch {
		case bytes.HasPrefix(line, []byte("id: ")):
			id, _ = strconv.Atoi(string(bytes.TrimSpace(line[4:])))
		case bytes.HasPrefix(line, []byte("event: eof")):
			ended = true
		case bytes.HasPrefix(line, []byte("data: ")):
			if ended {
				if id != last+1 { // the end has an id of its own
					result.err = fmt.Sprintf("the log has %d lines, %d came", id-1, last)
				}
				return result
			}
			if id != last+1 {
				result.err = fmt.Sprintf("sequence %d came after %d", id, last)
				return result
			}
			last, result.lines = id, result.lines+1
			if ages {
				note(result.ages, line)
			}
		}
	}
}

// note counts how old a line is. Lines of others than the build's step carry no time.
func note(ages []uint32, line []byte) {
	at := bytes.Index(line, []byte(`"line":"`))
	if at < 0 || at+27 > len(line) {
		return
	}
	printed, err := strconv.ParseInt(string(line[at+8:at+27]), 10, 64)
	if err != nil {
		return
	}
	bucket := (time.Now().UnixNano() - printed) / bucketNs
	ages[min(max(bucket, 0), buckets-1)]++
}

// crawl reads a stream so slowly that it cannot keep up.
func crawl(client *http.Client, until <-chan struct{}, lines *int, done *sync.WaitGroup) {
	defer done.Done()
	response, err := open(client)
	if err != nil {
		return
	}
	defer response.Body.Close()
	chunk := make([]byte, *slow/10)
	for {
		select {
		case <-until:
			return
		case <-time.After(100 * time.Millisecond):
		}
		n, err := io.ReadFull(response.Body, chunk)
		*lines += bytes.Count(chunk[:n], []byte("event: log\n"))
		if err != nil {
			return
		}
	}
}

// ask measures how long another organization waits for its list.
func ask(client *http.Client, until <-chan struct{}, asked *[]float64, done *sync.WaitGroup) {
	defer done.Done()
	for {
		select {
		case <-until:
			return
		case <-time.After(20 * time.Millisecond):
		}
		request, _ := http.NewRequest("GET", *server+"/v1/ignite/builds?limit=1", nil)
		request.Header.Set("Authorization", "Bearer "+*otherToken)
		began := time.Now()
		response, err := client.Do(request)
		if err != nil {
			continue
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		*asked = append(*asked, float64(time.Since(began).Microseconds())/1000)
	}
}

func quantile(ages []uint32, q float64) float64 {
	total := 0
	for _, count := range ages {
		total += int(count)
	}
	wanted := int(q * float64(total))
	for bucket, count := range ages {
		wanted -= int(count)
		if count > 0 && wanted <= 0 {
			return float64(bucket+1) * bucketNs / 1e6
		}
	}
	return 0
}

func main() {
	flag.Parse()
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 0, ReadBufferSize: 128 * 1024}}
	stop := make(chan struct{})
	var beside, reading sync.WaitGroup
	var out report
	if *otherToken != "" {
		beside.Add(1)
		go ask(client, stop, &out.Asked, &beside)
	}
	if *slow > 0 {
		beside.Add(1)
		go crawl(client, stop, &out.SlowLines, &beside)
	}
	results := make([]found, *readers)
	for number := range results {
		reading.Add(1)
		go func() {
			defer reading.Done()
			results[number] = follow(client, number < 4) // the ages of four stand for all
		}()
	}
	if *readers == 0 { // the measure without tails ends when the build does
		io.Copy(io.Discard, os.Stdin)
	}
	reading.Wait()
	close(stop)
	beside.Wait()
	ages := make([]uint32, buckets)
	for _, result := range results {
		out.Lines += result.lines
		if result.err != "" {
			out.Errors = append(out.Errors, result.err)
		}
		for bucket, count := range result.ages {
			ages[bucket] += count
		}
	}
	out.AgeP50, out.AgeP99, out.AgeMax = quantile(ages, 0.5), quantile(ages, 0.99), quantile(ages, 1)
	sort.Float64s(out.Asked)
	var usage syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	out.CPUSeconds = float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
	json.NewEncoder(os.Stdout).Encode(out)
}
