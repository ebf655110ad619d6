import json
import unittest

from decide import Accepted, Rejected, decide


class Decide(unittest.TestCase):
    def test_a_valid_request_is_recorded(self):
        self.assertEqual(
            decide('{"amount": 100, "customer": "Zoë 😀", "note": [1]}'),
            Accepted("try amount=100 customer=Zoë 😀", '{"amount":100,"customer":"Zoë 😀"}'),
        )

    def test_the_customer_may_be_missing(self):
        self.assertEqual(decide('{"amount": 0}'), Accepted("try amount=0 customer=", '{"amount":0,"customer":""}'))

    def test_a_customer_has_up_to_1000_bytes(self):
        self.assertIsInstance(decide(json.dumps({"amount": 1, "customer": "é" * 500})), Accepted)
        self.assertIsInstance(decide(json.dumps({"amount": 1, "customer": "é" * 501})), Rejected)

    def test_only_amounts_up_to_500_are_accepted(self):
        self.assertIsInstance(decide('{"amount": 500}'), Accepted)
        self.assertEqual(decide('{"amount": 501}'), Rejected("try amount=501: simulated failure", "simulated failure"))

    def test_anything_else_is_invalid(self):
        for payload in [
            "",
            "nonsense",
            "3",
            "null",
            "[]",
            '[100, "Zoë"]',
            "[" * 100_000,
            '{"amount": 1, "note": ' + "[" * 200 + "]" * 200 + "}",
            "{}",
            '{"amount": null}',
            '{"amount": true}',
            '{"amount": "1"}',
            '{"amount": -1}',
            '{"amount": 1.5}',
            '{"amount": 1e400}',
            '{"amount": 9223372036854775808}',
            '{"amount": 1, "customer": null}',
            '{"amount": 1, "customer": "\\ud800"}',
            '{"amount": 1, "note": NaN}',
        ]:
            with self.subTest(payload[:40]):
                self.assertEqual(decide(payload), Rejected("try: invalid request", "invalid request"))

    def test_brackets_in_strings_do_not_count(self):
        note = '\\"' + "[" * 200
        self.assertIsInstance(decide(json.dumps({"amount": 1, "note": note})), Accepted)

    def test_a_large_payload(self):
        payload = json.dumps({"amount": 1, "note": "x" * 2**20})
        self.assertIsInstance(decide(payload), Accepted)


if __name__ == "__main__":
    unittest.main()
